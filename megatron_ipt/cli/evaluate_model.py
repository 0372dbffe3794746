"""Score a Hugging Face model with lm-evaluation-harness and write a report."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_ipt.cli.command import parse_config, run_command
from megatron_ipt.config.stages import EvaluateConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of tools/evaluate_model.py and of `megatron-ipt evaluate`."""
    return run_command(_evaluate, arguments)


def _evaluate(arguments: Sequence[str]) -> None:
    config = parse_config(EvaluateConfig, arguments, program="evaluate_model.py", description=__doc__)
    from megatron_ipt.evaluation.report import REPORT_NAME
    from megatron_ipt.evaluation.stage import evaluate, open_evaluation, read_results
    from megatron_ipt.evaluation.table import print_scores
    from megatron_ipt.observability.logs import configure_logging

    configure_logging(is_main=True)
    evaluation = open_evaluation(config)
    if evaluation.stage.is_complete:
        print(f"{config.output} already holds these scores: skipped")
        results = read_results(evaluation.stage)
    else:
        results = evaluate(evaluation)
    print_scores(results)
    print(f"report: {evaluation.stage.folder / REPORT_NAME}")
