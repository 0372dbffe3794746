#!/usr/bin/env python
from megatron_ipt.cli.pretrain_gpt import main

if __name__ == "__main__":
    raise SystemExit(main())
