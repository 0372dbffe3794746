"""Curves of a training run, drawn from the lines of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from megatron_ipt.reporting.plots import FIRST, GRID, HUES, MUTED, SECOND, open_plot, to_svg

MetricRows = Sequence[Mapping[str, Any]]
"""Lines of metrics.jsonl: each holds `iteration` and the metrics that were reported then."""
SOURCE_LOSS = "source_loss/"
SOURCE_TOKENS = "source_tokens/"


class Curve(NamedTuple):
    """One line of a plot: (iteration, value) points."""

    label: str
    points: list[tuple[int, float]]
    color: str


def points_of(rows: MetricRows, name: str) -> list[tuple[int, float]]:
    """Return (iteration, value) for each row in which `name` was reported."""
    return [(row["iteration"], row[name]) for row in rows if name in row]


def draw_losses(rows: MetricRows) -> str | None:
    """Plot training and validation loss; None if neither was reported."""
    training = Curve("training", points_of(rows, "lm_loss"), FIRST)
    validation = Curve("validation", points_of(rows, "validation_loss"), SECOND)
    return _draw("losses", [training, validation], "loss, nats per token", is_wide=True)


def draw_sources(rows: MetricRows) -> str | None:
    """Plot the training loss of the sources with most tokens; None if there is only one source."""
    names = rank_sources(rows)
    if len(names) < 2:
        return None
    curves = [Curve(name, points_of(rows, f"{SOURCE_LOSS}{name}"), hue) for name, hue in zip(names, HUES, strict=False)]
    return _draw("sources", curves, "loss, nats per token", is_wide=True)


def draw_small(rows: MetricRows, name: str, axis_label: str, scale: float = 1.0) -> str | None:
    """Plot `scale` times one metric at half the width; None if it was not reported."""
    points = [(iteration, scale * value) for iteration, value in points_of(rows, name)]
    return _draw(name, [Curve("", points, FIRST)], axis_label, is_wide=False)


def rank_sources(rows: MetricRows) -> list[str]:
    """Return the names of the sources, most tokens first."""
    tokens: dict[str, int] = {}
    for row in rows:
        for key, count in row.items():
            if key.startswith(SOURCE_TOKENS):
                name = key.removeprefix(SOURCE_TOKENS)
                tokens[name] = tokens.get(name, 0) + count
    return sorted(tokens, key=lambda name: -tokens[name])


def _draw(name: str, curves: Sequence[Curve], axis_label: str, *, is_wide: bool) -> str | None:
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return None
    figure, axes = open_plot(3.6, 8.2) if is_wide else open_plot(2.6, 4.1)
    for curve in curves:
        is_sparse = len(curve.points) < 30
        axes.plot(
            *zip(*curve.points, strict=True),
            color=curve.color,
            linewidth=1.6,
            marker="o" if is_sparse else None,
            markersize=3.5,
            label=f"{curve.label} {curve.points[-1][1]:.2f}",  # at the ends of the lines, close values would overlap
        )
    if is_wide:
        axes.set_ylabel(axis_label)
    else:
        axes.set_title(axis_label, loc="left", color=MUTED, fontsize=10.5)
    axes.set_xlabel("iteration")
    axes.grid(color=GRID, linewidth=0.8)
    axes.margins(x=0.02)
    if is_wide:
        figure.legend(loc="outside upper right", ncols=min(4, len(curves)), frameon=False, labelcolor=MUTED)
    return to_svg(figure, name)
