#!/usr/bin/env python
from megatron_ipt.cli.build_chat_set import main

if __name__ == "__main__":
    raise SystemExit(main())
