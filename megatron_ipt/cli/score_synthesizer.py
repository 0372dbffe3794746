"""Score instruction synthesizers, side by side, on held-out questions and texts."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from megatron_ipt.cli.command import parse_config, run_command
from megatron_ipt.config.scoring import ScoreConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of tools/score_synthesizer.py and of `megatron-ipt score-synthesizer`."""
    return run_command(_score, arguments)


def _score(arguments: Sequence[str]) -> None:
    config = parse_config(ScoreConfig, arguments, program="score_synthesizer.py", description=__doc__)
    from megatron_ipt.synthesis.scoring.stage import REPORT_NAME, score
    from megatron_ipt.synthesis.scoring.table import print_scores

    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    logging.getLogger("megatron_ipt").setLevel(logging.INFO)
    print_scores(score(config))
    print(f"report: {config.output}/{REPORT_NAME}")
