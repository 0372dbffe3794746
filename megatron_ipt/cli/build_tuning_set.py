"""Gather context-based questions and answers into the set that an instruction synthesizer is tuned on."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from megatron_ipt.cli.command import parse_config, run_command
from megatron_ipt.config.tuning_set import TuningSetConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of tools/build_tuning_set.py and of `megatron-ipt tuning-set`."""
    return run_command(_build, arguments)


def _build(arguments: Sequence[str]) -> None:
    config = parse_config(TuningSetConfig, arguments, program="build_tuning_set.py", description=__doc__)
    from megatron_ipt.synthesis.tuning.stage import build_tuning_set

    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    logging.getLogger("megatron_ipt").setLevel(logging.INFO)
    counts = build_tuning_set(config)
    contexts = sum(one["contexts"] for one in counts["sets"].values())
    print(
        f"{config.output}: {counts['sequences']:,} sequences of {contexts:,} contexts from {len(counts['sets'])} sets, "
        f"{counts['tokens']:,} tokens, {counts['tokens_with_loss'] / counts['tokens']:.0%} of them with loss"
    )
