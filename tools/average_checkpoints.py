#!/usr/bin/env python
from megatron_ipt.cli.average_checkpoints import main

if __name__ == "__main__":
    raise SystemExit(main())
