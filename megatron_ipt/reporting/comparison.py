"""The page of a comparison of runs: scores over training tokens, and a table with the significance of differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from megatron_ipt.reporting.pages import render_page
from megatron_ipt.reporting.plots import CHANCE, GRID, HUES, MUTED, open_plot, to_svg, to_svg_file
from megatron_ipt.reporting.rows import show_score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGNIFICANT = 0.05


class CurvePoint(NamedTuple):
    """A score after `tokens` training tokens, and its standard error."""

    tokens: int
    value: float
    stderr: float | None


@dataclass(frozen=True)
class ComparedScore:
    """The score of a run, and its difference from the first run with a 95% interval; None for the first run itself."""

    run: str
    value: float
    stderr: float | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    questions: int | None = None

    @property
    def is_significant(self) -> bool:
        """Whether the p-value of the difference is below `SIGNIFICANT`."""
        return self.p_value is not None and self.p_value < SIGNIFICANT


@dataclass(frozen=True)
class TaskComparison:
    """A task, or the average of all tasks, with the final score of every run and the scores of its checkpoints."""

    name: str
    metric: str
    is_share: bool
    chance: float | None
    scores: Sequence[ComparedScore]
    curves: Mapping[str, Sequence[CurvePoint]]

    def show(self, value: float | None) -> str:
        """Format a score or a difference for the table, in percent if it is a share; empty for None."""
        return "" if value is None else show_score(value, is_share=self.is_share)


@dataclass(frozen=True)
class Comparison:
    """A comparison of runs, by name; differences are from `base`."""

    base: str
    runs: Sequence[str]
    tasks: Sequence[TaskComparison]


def render_comparison(comparison: Comparison) -> str:
    """Render the page; the same comparison gives the same bytes."""
    plots = {name: to_svg(figure, f"compare-{name}") for name, figure in _draw_tasks(comparison)}
    return render_page("comparison.html", comparison=comparison, plots=plots)


def draw_files(comparison: Comparison) -> dict[str, str]:
    """Return the plots of the page as the contents of SVG files, by task."""
    return {name: to_svg_file(figure, f"compare-{name}") for name, figure in _draw_tasks(comparison)}


def _draw_tasks(comparison: Comparison) -> Iterator[tuple[str, Figure]]:
    """Yield the name and the plot of each task with scores of models whose training tokens are known."""
    return ((task.name, _draw(task)) for task in comparison.tasks if any(task.curves.values()))


def _draw(task: TaskComparison) -> Figure:
    """Plot the score of every run over training tokens, with bands of one standard error."""
    figure, axes = open_plot(2.9, 4.1)
    last = max(point.tokens for points in task.curves.values() for point in points)
    unit, unit_tokens = ("billions", 1e9) if last >= 1e8 else ("millions", 1e6)
    scale = 100 if task.is_share else 1
    for (run, points), hue in zip(task.curves.items(), HUES * (1 + len(task.curves) // len(HUES)), strict=False):
        tokens = [point.tokens / unit_tokens for point in points]
        values = [scale * point.value for point in points]
        errors = [scale * (point.stderr or 0.0) for point in points]
        axes.plot(tokens, values, color=hue, linewidth=1.6, marker="o", markersize=3.5, label=run)
        low = [value - error for value, error in zip(values, errors, strict=True)]
        high = [value + error for value, error in zip(values, errors, strict=True)]
        axes.fill_between(tokens, low, high, color=hue, alpha=0.18, linewidth=0)
    if task.chance is not None:
        axes.axhline(scale * task.chance, color=CHANCE, linewidth=1.1, linestyle="--")
    axes.set_title(f"{task.name}, {task.metric}", loc="left", color=MUTED, fontsize=10.5)
    axes.set_xlabel(f"tokens, {unit}")
    axes.grid(color=GRID, linewidth=0.8)
    axes.margins(x=0.04)
    if len(task.curves) > 1:
        figure.legend(loc="outside lower center", ncols=2, frameon=False, labelcolor=MUTED)
    return figure
