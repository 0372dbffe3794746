"""Figures of the report as inline SVG; their colours are the page's, so that they follow its light and dark themes."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins that matplotlib draws with, and the page's variables that take their place in the SVG.
_INK, _MUTED, _GRID = "#010101", "#020202", "#030303"
_FIRST, _SECOND, _CHANCE = "#040404", "#050505", "#060606"
_VARIABLES = {
    _INK: "--ink",
    _MUTED: "--muted",
    _GRID: "--grid",
    _FIRST: "--first",
    _SECOND: "--second",
    _CHANCE: "--chance",
}


def draw_scores(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """A bar for each task in percent with its standard error, and where guessing lies."""
    figure, axes = _figure(0.42 * len(tasks) + 1.0)
    names = list(tasks)
    rows = range(len(names))
    headlines = [task["metrics"][task["metric"]] for task in tasks.values()]
    values = [100 * headline["value"] for headline in headlines]
    errors = [100 * (headline["stderr"] or 0.0) for headline in headlines]
    chances = [100 * task["chance"] for task in tasks.values()]
    axes.barh(rows, values, height=0.56, color=_FIRST, label="score ± standard error", zorder=2)
    axes.errorbar(values, rows, xerr=errors, fmt="none", ecolor=_INK, elinewidth=1.1, capsize=3, zorder=3)
    tops, bottoms = [row - 0.4 for row in rows], [row + 0.4 for row in rows]
    axes.vlines(chances, tops, bottoms, color=_CHANCE, linewidth=2.2, label="guessing", zorder=4)
    for row, value, error, chance in zip(rows, values, errors, chances, strict=True):
        axes.text(max(value + error, chance) + 1.2, row, f"{value:.1f}", va="center", color=_INK, zorder=5)
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("right answers, %")
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
    axes.tick_params(axis="y", length=0, labelcolor=_INK)
    figure.legend(loc="outside upper right", ncols=2, frameon=False, labelcolor=_MUTED)
    return _svg(figure, "scores")


def draw_losses(metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """Training and validation loss over the iterations; None when there are none."""
    training = [(row["iteration"], row["lm_loss"]) for row in metrics if "lm_loss" in row]
    validation = [(row["iteration"], row["validation_loss"]) for row in metrics if "validation_loss" in row]
    if not training and not validation:
        return None
    figure, axes = _figure(3.4)
    if training:
        axes.plot(*zip(*training, strict=True), color=_FIRST, linewidth=1.6, label="training")
    if validation:
        axes.plot(
            *zip(*validation, strict=True), color=_SECOND, linewidth=1.6, marker="o", markersize=4, label="validation"
        )
        axes.annotate(
            f"{validation[-1][1]:.2f}", validation[-1], (6, 6), textcoords="offset points", color=_INK, va="bottom"
        )
    axes.set_xlabel("iteration")
    axes.set_ylabel("loss, nats a token")
    axes.grid(color=_GRID, linewidth=0.8)
    figure.legend(loc="outside upper right", ncols=2, frameon=False, labelcolor=_MUTED)
    return _svg(figure, "losses")


def _figure(height_inches: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.2, height_inches), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.tick_params(colors=_MUTED)
    axes.xaxis.label.set_color(_MUTED)
    axes.yaxis.label.set_color(_MUTED)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure, name: str) -> str:
    """The same bytes for the same figure; `name` keeps its identifiers apart from another figure's."""
    import matplotlib

    drawn = io.StringIO()
    fonts = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif", "font.size": 10.5}
    with matplotlib.rc_context(fonts):
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = drawn.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg
