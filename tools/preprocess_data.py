#!/usr/bin/env python
from megatron_ipt.cli.preprocess_data import main

if __name__ == "__main__":
    raise SystemExit(main())
