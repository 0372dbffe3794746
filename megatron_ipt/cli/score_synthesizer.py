"""Score and compare instruction synthesizers on held-out questions and texts."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_ipt.cli.command import Outcome, run_stage
from megatron_ipt.config.scoring import ScoreConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `megatron-ipt score-synthesizer` (tools/score_synthesizer.py) and return its exit code."""
    return run_stage("score-synthesizer", _score, arguments, __doc__)


def _score(config: ScoreConfig) -> Outcome:
    from megatron_ipt.synthesizer.scoring.stage import REPORT_NAME, score
    from megatron_ipt.synthesizer.scoring.table import print_scores

    results = score(config)

    def show() -> None:
        print_scores(results)
        print(f"report: {config.output}/{REPORT_NAME}")

    return Outcome(show, {"output": config.output, **results})
