"""Build the set that an instruction synthesizer is tuned on from questions and answers about contexts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from megatron_ipt.cli.command import Outcome, run_stage
from megatron_ipt.config.tuning_set import TuningSetConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `megatron-ipt tuning-set` (tools/build_tuning_set.py) and return its exit code."""
    return run_stage("tuning-set", _build, arguments, __doc__)


def _build(config: TuningSetConfig) -> Outcome:
    from megatron_ipt.synthesizer.tuning.stage import build_tuning_set

    counts = build_tuning_set(config)
    return Outcome(partial(_show, config, counts), {"output": config.output, "counts": counts})


def _show(config: TuningSetConfig, counts: Mapping[str, Any]) -> None:
    contexts = sum(counted["contexts"] for counted in counts["sets"].values())
    print(
        f"{config.output}: {counts['sequences']:,} sequences with {contexts:,} contexts from {len(counts['sets'])} "
        f"sets, {counts['tokens']:,} tokens, {counts['tokens_with_loss'] / counts['tokens']:.0%} of them with loss"
    )
