"""Comparison of runs: final scores, scores over training tokens, and the significance of differences."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from megatron_ipt.corpus.manifest import write_atomically
from megatron_ipt.errors import UserError
from megatron_ipt.evaluation.kept_scores import file_name
from megatron_ipt.evaluation.scored_runs import ScoredModel, ScoredRun
from megatron_ipt.evaluation.significance import Difference, average, compare
from megatron_ipt.reporting.comparison import (
    ComparedScore,
    Comparison,
    CurvePoint,
    TaskComparison,
    draw_files,
    render_comparison,
)

PAGE_NAME, TABLE_NAME, CURVES_NAME, PLOTS_FOLDER = "comparison.html", "comparison.csv", "curves.csv", "plots"
AVERAGE = "average"


def compare_runs(runs: Sequence[ScoredRun], seed: int) -> Comparison:
    """Compare each run with the first one, on every task that all runs have and on their average.

    Args:
        runs: the runs; the first is the baseline.
        seed: the seed of the bootstrap; each task adds its index, so that tasks are resampled independently.

    Raises:
        UserError: the runs have no task in common, or were scored on different questions.
    """
    base = runs[0]
    shared = [task for task in base.last.scores if all(_is_shared(task, base, run) for run in runs)]
    if not shared:
        names = ", ".join(run.name for run in runs)
        raise UserError("run", names, "they have no task in common", "score all of them on the same suite")
    differences = {
        run.name: {task: _difference(task, base.last, run.last, seed + index) for index, task in enumerate(shared)}
        for run in runs[1:]
    }
    tasks = [_task(task, runs, {name: by_task[task] for name, by_task in differences.items()}) for task in shared]
    averaged = [task for task in shared if base.last.scores[task].headline.is_share]
    if len(averaged) > 1:
        means = {name: average([by_task[task] for task in averaged]) for name, by_task in differences.items()}
        tasks.append(_average(averaged, runs, means))
    return Comparison(base=base.name, runs=[run.name for run in runs], tasks=tasks)


def write_comparison(comparison: Comparison, folder: Path) -> list[Path]:
    """Write the page, the table, the points of the curves and the plots into `folder`, and return the files."""
    (folder / PLOTS_FOLDER).mkdir(parents=True, exist_ok=True)
    contents = {
        PAGE_NAME: render_comparison(comparison),
        TABLE_NAME: _table(comparison),
        CURVES_NAME: _curves(comparison),
        **{f"{PLOTS_FOLDER}/{file_name(task)}.svg": plot for task, plot in draw_files(comparison).items()},
    }
    for name, text in contents.items():
        write_atomically(folder / name, text)
    return [folder / name for name in contents]


def _is_shared(task: str, base: ScoredRun, run: ScoredRun) -> bool:
    score = run.last.scores.get(task)
    return score is not None and score.metric == base.last.scores[task].metric


def _difference(task: str, base: ScoredModel, other: ScoredModel, seed: int) -> Difference:
    first, second = base.questions(task), other.questions(task)
    shared = [question for question in first if question in second]
    if len(shared) < max(len(first), len(second)):
        reason = f"{base.folder} and {other.folder} were scored on different questions or few-shot examples"
        raise UserError("run", task, reason, "score both with the same settings")
    metric = base.scores[task].metric.partition(",")[0]
    return compare(metric, [first[key] for key in shared], [second[key] for key in shared], seed)


def _task(task: str, runs: Sequence[ScoredRun], differences: Mapping[str, Difference]) -> TaskComparison:
    def score(model: ScoredModel) -> tuple[float, float | None]:
        headline = model.scores[task].headline
        return headline.value, headline.stderr

    first = runs[0].last.scores[task]
    compared, curves = _side_by_side(runs, [task], score, differences)
    return TaskComparison(task, first.metric, first.headline.is_share, first.chance, compared, curves)


def _average(tasks: Sequence[str], runs: Sequence[ScoredRun], differences: Mapping[str, Difference]) -> TaskComparison:
    compared, curves = _side_by_side(runs, tasks, partial(_mean, tasks), differences)
    return TaskComparison(AVERAGE, f"of {len(tasks)} tasks", True, None, compared, curves)


def _side_by_side(
    runs: Sequence[ScoredRun],
    tasks: Sequence[str],
    score: Callable[[ScoredModel], tuple[float, float | None]],
    differences: Mapping[str, Difference],
) -> tuple[list[ComparedScore], dict[str, list[CurvePoint]]]:
    """Apply `score` to the last model of each run, and to each of its models that has all `tasks`.

    Returns:
        The final scores of the runs, and by run the points of its curve.
    """
    compared = [_compared(run.name, *score(run.last), differences) for run in runs]
    curves = {
        run.name: [
            CurvePoint(model.tokens, *score(model))
            for model in run.models
            if model.tokens is not None and model.scores.keys() >= set(tasks)
        ]
        for run in runs
    }
    return compared, curves


def _mean(tasks: Sequence[str], model: ScoredModel) -> tuple[float, float | None]:
    """Return the mean score of the tasks and its standard error, with the tasks treated as independent."""
    headlines = [model.scores[task].headline for task in tasks]
    errors = [headline.stderr for headline in headlines if headline.stderr is not None]
    stderr = sum(error**2 for error in errors) ** 0.5 / len(tasks) if len(errors) == len(tasks) else None
    return sum(headline.value for headline in headlines) / len(tasks), stderr


def _compared(run: str, value: float, stderr: float | None, differences: Mapping[str, Difference]) -> ComparedScore:
    if (found := differences.get(run)) is None:
        return ComparedScore(run, value, stderr)
    return ComparedScore(run, value, stderr, found.value, found.low, found.high, found.p_value, found.questions)


def _table(comparison: Comparison) -> str:
    heading = ["task", "metric", "run", "score", "stderr", "difference", "low", "high", "p_value", "questions"]
    rows = [
        [task.name, task.metric, *(getattr(score, name) for name in ("run", "value", *heading[4:]))]
        for task in comparison.tasks
        for score in task.scores
    ]
    return _csv(heading, rows)


def _curves(comparison: Comparison) -> str:
    rows = [
        [task.name, run, point.tokens, point.value, point.stderr]
        for task in comparison.tasks
        for run, points in task.curves.items()
        for point in points
    ]
    return _csv(["task", "run", "tokens", "score", "stderr"], rows)


def _csv(heading: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([heading, *rows])
    return text.getvalue()
