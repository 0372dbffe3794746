"""Figures of the scoring report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from megatron_ipt.observability.figures import GRID, HUES, INK, MUTED, open_figure, to_svg

_BAR, _GAP = 0.8, 0.55  # heights in rows: a bar, and the space between two sets
_WIDTH_INCHES = 5.6
Share = Mapping[str, float] | None


def draw_shares(name: str, labels: Sequence[str], models: Mapping[str, Sequence[Share]], axis_label: str) -> str:
    """For each label a lying bar of each model, in percent, with its standard error."""
    figure, axes = open_figure((len(labels) * (len(models) + _GAP)) * 0.24 + 0.9, _WIDTH_INCHES)
    step = len(models) + _GAP
    for number, (model, shares) in enumerate(models.items()):
        places = [place * step + number for place in range(len(labels))]
        values = [0.0 if share is None else 100 * share["value"] for share in shares]
        errors = [0.0 if share is None else 100 * share["stderr"] for share in shares]
        axes.barh(places, values, height=_BAR, color=HUES[number % len(HUES)], label=model, zorder=2)
        axes.errorbar(values, places, xerr=errors, fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5, zorder=3)
        for place, value, error, share in zip(places, values, errors, shares, strict=True):
            shown = "none asked for" if share is None else f"{value:.1f}"
            axes.text(value + error + 1.0, place, shown, va="center", color=INK, fontsize=9, zorder=4)
    axes.set_yticks(
        [place * step + (len(models) - 1) / 2 for place in range(len(labels))], list(labels), parse_math=False
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel(axis_label)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    figure.legend(loc="outside upper right", ncols=4, frameon=False, labelcolor=MUTED)
    return to_svg(figure, name)
