"""Score a Hugging Face model with lm-evaluation-harness and write a report."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_ipt.cli.command import Outcome, run_stage
from megatron_ipt.config.evaluation import EvaluateConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `megatron-ipt evaluate` (tools/evaluate_model.py) and return its exit code."""
    return run_stage("evaluate", _evaluate, arguments, __doc__)


def _evaluate(config: EvaluateConfig) -> Outcome:
    from megatron_ipt.evaluation.report import REPORT_NAME
    from megatron_ipt.evaluation.stage import evaluate, open_evaluation, read_results
    from megatron_ipt.evaluation.table import print_scores

    evaluation = open_evaluation(config)
    skipped = evaluation.is_finished
    results = read_results(evaluation.stage) if skipped else evaluate(evaluation)

    def show() -> None:
        if skipped:
            print(f"skipped: {config.output} already holds these scores")
        print_scores(results)
        print(f"report: {evaluation.stage.folder / REPORT_NAME}")

    return Outcome(show, {"output": config.output, **results})
