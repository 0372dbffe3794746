#!/usr/bin/env python
from megatron_ipt.cli.synthesize_instructions import main

if __name__ == "__main__":
    raise SystemExit(main())
