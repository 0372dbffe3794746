"""Plots of the quality report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from megatron_ipt.reporting.plots import CARD, CHANCE, FIRST, HUES, INK, MUTED, open_plot, to_svg
from megatron_ipt.reporting.quality_rows import FirstWords

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HALF_INCHES = 5.6
_MAX_LABEL = 14
_INNER, _OUTER = (0.34, 0.665), (0.675, 1.0)  # radii of the two rings
_INNER_DEGREES, _OUTER_DEGREES = 7.5, 4.5  # narrower sectors are not shown alone


def draw_columns(
    name: str,
    labels: Sequence[str],
    counts: Sequence[int],
    colors: Sequence[str],
    axis_label: str,
    height: float = 2.7,
) -> str:
    """Plot a column for each label, in percent of all."""
    figure, axes = open_plot(height, HALF_INCHES)
    shares = _percent(counts)
    columns = range(len(labels))
    axes.bar(columns, shares, width=0.82, color=list(colors), zorder=2)
    _label_columns(axes, shares)
    axes.set_xticks(columns, labels)
    axes.set_xlabel(axis_label)
    _hide_values(axes)
    return to_svg(figure, name)


def draw_bins(name: str, edges: Sequence[int], counts: Sequence[int], axis_label: str) -> str:
    """Plot a column from each edge to the next, in percent of all; widths are equal, the last one is open."""
    figure, axes = open_plot(2.5, HALF_INCHES)
    shares = _percent(counts)
    axes.bar([index + 0.5 for index in range(len(edges))], shares, width=0.9, color=FIRST, zorder=2)
    _label_columns(axes, shares, 0.5)
    axes.set_xticks(range(len(edges)), [f"{edge / 1000:g}k" if edge >= 1000 else str(edge) for edge in edges])
    axes.set_xlabel(axis_label)
    _hide_values(axes)
    return to_svg(figure, name)


def draw_bars(name: str, rows: Sequence[tuple[str, int]], total: int, colors: Sequence[str]) -> str:
    """Plot a horizontal bar for each named count, in percent of `total`."""
    figure, axes = open_plot(0.36 * len(rows) + 0.25, HALF_INCHES)
    shares = [100 * count / total for _, count in rows]
    axes.barh(range(len(rows)), shares, height=0.62, color=list(colors), zorder=2)
    for row, share in enumerate(shares):
        _write_beside(axes, share, row, f"{_spell(share)} · {rows[row][1]:,}" if share else "none", INK)
    _style_bars(axes, [label for label, _ in rows], max(shares))
    return to_svg(figure, name)


def draw_categories(categories: Mapping[str, Mapping[str, int]], formats: Mapping[str, str]) -> str:
    """Plot a horizontal bar for each category, in percent of all pairs, divided by format.

    `formats` are labels by the name of the format. Categories without a pair stay visible.
    """
    figure, axes = open_plot(0.3 * len(categories) + 0.5, HALF_INCHES)
    ranked = sorted(categories, key=lambda name: -sum(categories[name].values()))
    total = max(sum(sum(parts.values()) for parts in categories.values()), 1)
    rows = range(len(ranked))
    lefts = [0.0] * len(ranked)
    for (format_name, label), color in zip(formats.items(), HUES, strict=False):
        widths = [100 * categories[name][format_name] / total for name in ranked]
        if any(widths):
            axes.barh(rows, widths, left=lefts, height=0.68, color=color, label=label, zorder=2)
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    for row, share in zip(rows, lefts, strict=True):
        _write_beside(axes, share, row, _spell(share) if share else "none", INK if share else CHANCE)
    _style_bars(axes, ranked, max(lefts))
    if total > 1:
        figure.legend(loc="outside upper left", ncols=2, frameon=False, labelcolor=MUTED)
    return to_svg(figure, "categories")


def draw_first_words(first_words: FirstWords) -> str:
    """Plot two rings: the first words of questions, and around each the words that follow it."""
    figure, axes = open_plot(HALF_INCHES, HALF_INCHES)
    sampled, degrees = first_words.sampled_pairs, 0.0
    for number, (first, entry) in enumerate(first_words.counts.items()):
        color, width = HUES[number % len(HUES)], 360 * entry.count / sampled
        if width < _INNER_DEGREES:
            break
        _sector(axes, degrees, width, _INNER, color, 1.0, first)
        begin = degrees
        degrees += width
        for second, count in entry.then.items():
            if (second_width := 360 * count / sampled) >= _OUTER_DEGREES:
                _sector(axes, begin, second_width, _OUTER, color, 0.42, second)
                begin += second_width
        _sector(axes, begin, degrees - begin, _OUTER, color, 0.15, "")
    _sector(axes, degrees, 360 - degrees, _INNER, MUTED, 0.35, "others")
    _sector(axes, degrees, 360 - degrees, _OUTER, MUTED, 0.12, "")
    axes.set_xlim(-1.02, 1.02)
    axes.set_ylim(-1.02, 1.02)
    axes.set_aspect("equal")
    axes.axis("off")
    return to_svg(figure, "first-words")


def _sector(
    axes: Axes, begin: float, width: float, radii: tuple[float, float], color: str, opacity: float, label: str
) -> None:
    """Draw a part of a ring; angles are degrees clockwise from the top."""
    import math

    from matplotlib.patches import Wedge

    if width <= 0:
        return
    inner, outer = radii
    gap = min(0.35, width / 4)
    wedge = Wedge((0, 0), outer, 90 - begin - width + gap, 90 - begin - gap, width=outer - inner, lw=0)
    wedge.set(facecolor=color, alpha=opacity)
    axes.add_patch(wedge)
    middle = 90 - begin - width / 2
    radius = (inner + outer) / 2
    if not label:
        return
    turn = middle % 360
    shown = label if len(label) <= _MAX_LABEL else label[: _MAX_LABEL - 1] + "…"
    axes.text(
        radius * math.cos(math.radians(middle)),
        radius * math.sin(math.radians(middle)),
        shown,
        rotation=turn - 180 if 90 < turn < 270 else turn,
        rotation_mode="anchor",
        ha="center",
        va="center",
        color=CARD if opacity == 1.0 else INK,
        fontsize=9,
        parse_math=False,
    )


def _write_beside(axes: Axes, end: float, row: int, words: str, color: str) -> None:
    axes.annotate(words, (end, row), (5, 0), textcoords="offset points", va="center", color=color)


def _percent(counts: Sequence[int]) -> list[float]:
    total = max(sum(counts), 1)
    return [100 * count / total for count in counts]


def _label_columns(axes: Axes, shares: Sequence[float], shift: float = 0.0) -> None:
    is_wide = len(shares) < 16
    for index, share in enumerate(shares):
        if share >= 2 or (is_wide and share):
            label = _spell(share) if is_wide else f"{share:.0f}%"
            axes.text(index + shift, share, label, ha="center", va="bottom", color=INK, fontsize=9 if is_wide else 8)


def _hide_values(axes: Axes) -> None:
    axes.set_yticks([])
    axes.margins(x=0.02, y=0.12)
    axes.tick_params(axis="x", length=0, labelcolor=MUTED)


def _style_bars(axes: Axes, names: Sequence[str], longest: float) -> None:
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 1.32 * (longest or 1.0))
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=INK)


def _spell(share: float) -> str:
    if 0 < share < 0.1:
        return "<0.1%"
    return f"{share:.0f}%" if share >= 10 else f"{share:.1f}%"
