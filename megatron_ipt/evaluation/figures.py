"""Figures of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from megatron_ipt.observability.figures import CHANCE, FIRST, GRID, INK, MUTED, SECOND, open_figure, to_svg


def draw_scores(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """A bar for each task in percent with its standard error, and where guessing lies."""
    figure, axes = open_figure(0.42 * len(tasks) + 1.0)
    names = list(tasks)
    rows = range(len(names))
    headlines = [task["metrics"][task["metric"]] for task in tasks.values()]
    values = [100 * headline["value"] for headline in headlines]
    errors = [100 * (headline["stderr"] or 0.0) for headline in headlines]
    chances = [100 * task["chance"] for task in tasks.values()]
    axes.barh(rows, values, height=0.56, color=FIRST, label="score ± standard error", zorder=2)
    axes.errorbar(values, rows, xerr=errors, fmt="none", ecolor=INK, elinewidth=1.1, capsize=3, zorder=3)
    tops, bottoms = [row - 0.4 for row in rows], [row + 0.4 for row in rows]
    axes.vlines(chances, tops, bottoms, color=CHANCE, linewidth=2.2, label="guessing", zorder=4)
    for row, value, error, chance in zip(rows, values, errors, chances, strict=True):
        axes.text(max(value + error, chance) + 1.2, row, f"{value:.1f}", va="center", color=INK, zorder=5)
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("right answers, %")
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    figure.legend(loc="outside upper right", ncols=2, frameon=False, labelcolor=MUTED)
    return to_svg(figure, "scores")


def draw_losses(metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """Training and validation loss over the iterations; None when there are none."""
    training = [(row["iteration"], row["lm_loss"]) for row in metrics if "lm_loss" in row]
    validation = [(row["iteration"], row["validation_loss"]) for row in metrics if "validation_loss" in row]
    if not training and not validation:
        return None
    figure, axes = open_figure(3.4)
    if training:
        axes.plot(*zip(*training, strict=True), color=FIRST, linewidth=1.6, label="training")
    if validation:
        axes.plot(
            *zip(*validation, strict=True), color=SECOND, linewidth=1.6, marker="o", markersize=4, label="validation"
        )
        axes.annotate(
            f"{validation[-1][1]:.2f}", validation[-1], (6, 6), textcoords="offset points", color=INK, va="bottom"
        )
    axes.set_xlabel("iteration")
    axes.set_ylabel("loss, nats a token")
    axes.grid(color=GRID, linewidth=0.8)
    figure.legend(loc="outside upper right", ncols=2, frameon=False, labelcolor=MUTED)
    return to_svg(figure, "losses")
