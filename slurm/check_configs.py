#!/usr/bin/env python
"""Load the configurations of all stages, so that an error in the last one is reported before the first one runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from megatron_ipt.cli.command import run_command
from megatron_ipt.config.loading import load_config
from megatron_ipt.errors import UserError
from megatron_ipt.stages import stage_of_config


def check(files: Sequence[str]) -> None:
    """Load each file with the settings of the stage in its name: `preprocess_raw.yaml` with those of preprocess."""
    for file in map(Path, files):
        spec = stage_of_config(file)
        if spec is None:
            reason = "its name does not begin with that of a stage"
            raise UserError("configuration", file, reason, "see slurm/submit_pipeline.sh --help for the names")
        load_config(spec.load_schema(), file)


if __name__ == "__main__":
    sys.exit(run_command(check))
