"""Gather context-based questions and answers into the set that an instruction synthesizer is tuned on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from megatron_ipt.cli.command import Outcome, run_stage
from megatron_ipt.config.tuning_set import TuningSetConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of tools/build_tuning_set.py and of `megatron-ipt tuning-set`."""
    return run_stage("tuning-set", _build, arguments, __doc__)


def _build(config: TuningSetConfig) -> Outcome:
    from megatron_ipt.observability.logs import configure_logging
    from megatron_ipt.synthesizer.tuning.stage import build_tuning_set

    configure_logging(is_main=True)
    counts = build_tuning_set(config)
    return Outcome(partial(_show, config, counts), {"output": config.output, "counts": counts})


def _show(config: TuningSetConfig, counts: Mapping[str, Any]) -> None:
    contexts = sum(one["contexts"] for one in counts["sets"].values())
    print(
        f"{config.output}: {counts['sequences']:,} sequences of {contexts:,} contexts from {len(counts['sets'])} sets, "
        f"{counts['tokens']:,} tokens, {counts['tokens_with_loss'] / counts['tokens']:.0%} of them with loss"
    )
