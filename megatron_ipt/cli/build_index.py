"""Build the sample indices of a training run in advance, on a machine without GPUs."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_ipt.cli.command import Outcome, run_stage
from megatron_ipt.config.pretrain import PretrainConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `megatron-ipt index` (tools/build_index.py) and return its exit code."""
    return run_stage("index", _index, arguments, __doc__)


def _index(config: PretrainConfig) -> Outcome:
    from megatron_ipt.training.preflight import check_data, open_stage

    check_data(config)
    stage = open_stage(config)
    from megatron_ipt.training.datasets import build_indices

    cache, files = build_indices(config, stage)
    text = f"{cache}: {files} files with the sample indices of {config.training.train_iters:,} steps"
    return Outcome(lambda: print(text), {"index_cache": str(cache), "files": files})
