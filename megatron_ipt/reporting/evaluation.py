"""The report of an evaluation: scores, losses of the training run, parity check of the export, lineage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megatron_ipt.reporting.curves import MetricRows, draw_losses
from megatron_ipt.reporting.pages import render_page
from megatron_ipt.reporting.plots import CHANCE, FIRST, GRID, INK, MUTED, open_plot, to_svg
from megatron_ipt.reporting.rows import LineageRow, Tile, show_score, show_stderr


@dataclass(frozen=True)
class MetricRow:
    """A metric and its standard error; `is_share`: a share from 0 to 1, higher is better, shown in percent."""

    name: str
    value: float
    stderr: float | None
    is_share: bool

    @property
    def shown(self) -> str:
        """The value, formatted for tables."""
        return show_score(self.value, is_share=self.is_share)

    @property
    def shown_stderr(self) -> str:
        """The standard error, formatted for tables; empty if there is none."""
        return show_stderr(self.stderr, is_share=self.is_share)


@dataclass(frozen=True)
class TaskRow:
    """The scores of a task; `headline` is the metric in the plot, `chance` the score of random guessing."""

    name: str
    headline: MetricRow
    metrics: Sequence[MetricRow]
    num_fewshot: int
    questions: int
    questions_available: int
    evaluated_split: str
    fewshot_split: str | None
    chance: float | None
    parts: Mapping[str, float]


@dataclass(frozen=True)
class LeftOutRow:
    """A task that was not evaluated, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class EvaluationReport:
    """An evaluation of `model`; `run` and `metrics` belong to its training run, if one was given."""

    model: str
    model_sha256: str | None
    suite: str
    limit: int | None
    dtype: str
    has_bos: bool
    has_chat_template: bool
    average: float | None
    command_lines: Sequence[str]
    versions: Mapping[str, str]
    tasks: Sequence[TaskRow]
    left_out: Sequence[LeftOutRow]
    run: str | None
    metrics: MetricRows
    parity: Mapping[str, str]
    lineage: Sequence[LineageRow]


def render_evaluation(report: EvaluationReport) -> str:
    """Render the page."""
    return render_page(
        "evaluation.html",
        report=report,
        scores_plot=_draw_scores([task for task in report.tasks if task.headline.is_share]),
        losses_plot=draw_losses(report.metrics),
        tiles=_tiles(report.metrics),
    )


def _tiles(metrics: MetricRows) -> list[Tile]:
    training = [row for row in metrics if "lm_loss" in row]
    validation = [row["validation_loss"] for row in metrics if "validation_loss" in row]
    tiles: list[Tile] = []
    if training:
        tiles += [
            Tile("iterations", f"{training[-1]['iteration']:,}"),
            Tile("tokens read", f"{training[-1].get('consumed_train_tokens', 0):,}"),
            Tile("training loss", f"{training[0]['lm_loss']:.2f} → {training[-1]['lm_loss']:.2f}"),
        ]
    if validation:
        tiles.append(Tile("validation loss", f"{validation[0]:.2f} → {validation[-1]:.2f}"))
    return tiles


def _draw_scores(tasks: Sequence[TaskRow]) -> str | None:
    """Plot a bar for each task, in percent, with its standard error and the score of random guessing."""
    if not tasks:
        return None
    figure, axes = open_plot(0.42 * len(tasks) + 1.0)
    rows = range(len(tasks))
    values = [100 * task.headline.value for task in tasks]
    errors = [100 * (task.headline.stderr or 0.0) for task in tasks]
    chances = [100 * (task.chance or 0.0) for task in tasks]
    known = [row for row in rows if tasks[row].chance is not None]
    axes.barh(rows, values, height=0.56, color=FIRST, label="score ± standard error", zorder=2)
    axes.errorbar(values, rows, xerr=errors, fmt="none", ecolor=INK, elinewidth=1.1, capsize=3, zorder=3)
    if known:
        tops, bottoms = [row - 0.4 for row in known], [row + 0.4 for row in known]
        marks = [chances[row] for row in known]
        axes.vlines(marks, tops, bottoms, color=CHANCE, linewidth=2.2, label="chance", zorder=4)
    for row, value, error, chance in zip(rows, values, errors, chances, strict=True):
        axes.text(max(value + error, chance) + 1.2, row, f"{value:.1f}", va="center", color=INK, zorder=5)
    axes.set_yticks(rows, [task.name for task in tasks])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("score, %")
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    figure.legend(loc="outside upper right", ncols=2, frameon=False, labelcolor=MUTED)
    return to_svg(figure, "scores")
