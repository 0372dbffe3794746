#!/usr/bin/env python
from megatron_ipt.cli.score_synthesizer import main

if __name__ == "__main__":
    raise SystemExit(main())
