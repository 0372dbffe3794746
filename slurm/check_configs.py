#!/usr/bin/env python
"""Load the configurations of all stages, so that a mistake in the last one is told before the first one runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_ipt.cli.command import run_command
from megatron_ipt.config.loading import load_config
from megatron_ipt.config.mixture import MixtureConfig
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.config.stages import ConvertConfig, EvaluateConfig, PreprocessConfig
from megatron_ipt.config.synthesis import SynthesizeConfig

SCHEMAS: dict[str, type[Any]] = {
    "synthesize": SynthesizeConfig,
    "preprocess": PreprocessConfig,
    "mix": MixtureConfig,
    "pretrain": PretrainConfig,
    "convert": ConvertConfig,
    "evaluate": EvaluateConfig,
}


def check(files: Sequence[str]) -> None:
    """Load each file as what its name says: `preprocess_raw.yaml` is the stage preprocess's."""
    for file in map(Path, files):
        load_config(SCHEMAS[file.stem.partition("_")[0]], file)


if __name__ == "__main__":
    sys.exit(run_command(check))
