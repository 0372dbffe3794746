"""Average the weights of the newest checkpoints of a training run, for export or further training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megatron_ipt.cli.command import Outcome, run_stage
from megatron_ipt.config.stages import AverageConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `megatron-ipt average` (tools/average_checkpoints.py) and return its exit code."""
    return run_stage("average", _average, arguments, __doc__)


def _average(config: AverageConfig) -> Outcome:
    from megatron_ipt.conversion.sources import find_newest_checkpoints

    find_newest_checkpoints(Path(config.input), config.last)  # before torch is imported, which takes seconds
    from megatron_ipt.conversion.averaging import average

    lines: list[str] = []
    average(config, lines.append)
    return Outcome(lambda: print("\n".join(lines)), {"output": config.output, "messages": lines})
