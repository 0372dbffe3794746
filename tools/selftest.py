#!/usr/bin/env python
from megatron_ipt.cli.selftest import main

if __name__ == "__main__":
    raise SystemExit(main())
