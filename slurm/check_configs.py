#!/usr/bin/env python
"""Load the configurations of all stages, so that a mistake in the last one is reported before the first one runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from megatron_ipt.cli.command import run_command
from megatron_ipt.config.loading import load_config
from megatron_ipt.errors import UserError
from megatron_ipt.stages import stage_of_config


def check(files: Sequence[str]) -> None:
    """Load each file as what its name says: `preprocess_raw.yaml` is of the stage preprocess."""
    for file in map(Path, files):
        spec = stage_of_config(file)
        if spec is None:
            raise UserError("configuration", file, "its name is not that of a stage", "see slurm/submit_pipeline.sh")
        load_config(spec.load_schema(), file)


if __name__ == "__main__":
    sys.exit(run_command(check))
