"""Convert conversations to a loss-masked dataset for instruction tuning of a pre-trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from megatron_ipt.cli.command import Outcome, run_stage
from megatron_ipt.config.chat_set import ChatSetConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `megatron-ipt chat-set` (tools/build_chat_set.py) and return its exit code."""
    return run_stage("chat-set", _build, arguments, __doc__)


def _build(config: ChatSetConfig) -> Outcome:
    from megatron_ipt.chat.stage import build_chat_set

    counts = build_chat_set(config)
    return Outcome(partial(_show, config, counts), {"output": config.output, "counts": counts})


def _show(config: ChatSetConfig, counts: Mapping[str, Any]) -> None:
    print(
        f"{config.output}: {counts['conversations']:,} conversations in {counts['sequences']:,} sequences, "
        f"{counts['tokens']:,} tokens, {counts['tokens_with_loss'] / counts['tokens']:.0%} of them with loss; "
        f"answers end with {' or '.join(counts['turn_ends'])}"
    )
