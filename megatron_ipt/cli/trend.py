"""Convert and score the checkpoints of a training run, also while it is running."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_ipt.cli.command import Outcome, run_stage
from megatron_ipt.config.evaluation import TrendConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `megatron-ipt trend` and return its exit code."""
    return run_stage("trend", _trend, arguments, __doc__)


def _trend(config: TrendConfig) -> Outcome:
    from pathlib import Path

    from megatron_ipt.evaluation.trend import follow

    Path(config.output).mkdir(parents=True, exist_ok=True)
    rows = follow(config)

    def show() -> None:
        for row in rows:
            print("  ".join(f"{name.removeprefix('eval/')} {value:.4g}" for name, value in row.items()))
        print(f"curves: megatron-ipt compare {config.output} --output FOLDER")

    return Outcome(show, {"output": config.output, "scores": rows})
