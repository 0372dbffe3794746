"""Tables of scores for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from megatron_ipt.observability.console import output_console
from megatron_ipt.reporting.comparison import Comparison
from megatron_ipt.reporting.rows import show_score, show_stderr


def print_scores(results: Mapping[str, Any]) -> None:
    """Print a row per task, including tasks that were left out."""
    console = output_console()
    console.print(f"{results['model']}: suite {results['suite']}")
    table = Table()
    for heading in ("task", "shots", "questions", "metric"):
        table.add_column(heading, justify="right" if heading in ("shots", "questions") else "left")
    for heading in ("score", "± stderr", "chance"):
        table.add_column(heading, justify="right")
    for name, score in results["tasks"].items():
        headline = score["metrics"][score["metric"]]
        asked, available = score["questions"], score["questions_available"]
        questions = f"{asked:,}" if asked == available else f"{asked:,} of {available:,}"
        chance = "" if score["chance"] is None else f"{100 * score['chance']:.1f} %"
        numbers = (*_numbers(**headline), chance)
        table.add_row(name, str(score["num_fewshot"]), questions, score["metric"], *numbers)
    for task in results["left_out"]:
        table.add_row(task["name"], "", "", "left out", "-", "", "")
    if results["average"] is not None and len(results["tasks"]) > 1:
        table.add_row("average", "", "", "", f"{100 * results['average']:.1f} %", "", "")
    console.print(table)
    for task in results["left_out"]:
        console.print(f"left out: {task['name']}: {task['reason']}")


def _numbers(value: float, stderr: float | None, is_share: bool) -> tuple[str, str]:
    shown = show_score(value, is_share=is_share)
    return f"{shown} %" if is_share else shown, show_stderr(stderr, is_share=is_share)


def print_comparison(comparison: Comparison) -> None:
    """Print a row per task and run; the difference is from the first run."""
    table = Table()
    for heading in ("task", "metric", "run"):
        table.add_column(heading)
    for heading in ("score", "difference", "95% interval", "p"):
        table.add_column(heading, justify="right")
    for task in comparison.tasks:
        for index, score in enumerate(task.scores):
            interval = "" if score.low is None else f"{task.show(score.low)} to {task.show(score.high)}"
            p_value = "" if score.p_value is None else f"{score.p_value:.3g}"
            named = ("", "") if index else (task.name, task.metric)
            numbers = (task.show(score.value), task.show(score.difference), interval, p_value)
            table.add_row(*named, score.run, *numbers)
        table.add_section()
    output_console().print(table)
