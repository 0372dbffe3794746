"""Plots as SVG: in a page in its colors, so that they follow its light and dark themes, or in files of their own."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from megatron_ipt.reporting.colors import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colors that matplotlib draws with, and that are replaced in the SVG.
INK, MUTED, GRID, CARD = "#010101", "#020202", "#030303", "#080808"
FIRST, SECOND, CHANCE = "#040404", "#050505", "#060606"
HUES = ("#070701", "#070702", "#070703", "#070704", "#070705", "#070706", "#070707", "#070708")
_NAMES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    CARD: "card",
    FIRST: "first",
    SECOND: "second",
    CHANCE: "chance",
    **{hue: f"hue-{number}" for number, hue in enumerate(HUES, start=1)},
}


def open_plot(height_inches: float, width_inches: float = 8.2) -> tuple[Figure, Axes]:
    """Return an empty plot in the colors of the page, with a horizontal axis only."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(colors=MUTED)
    axes.xaxis.label.set_color(MUTED)
    axes.yaxis.label.set_color(MUTED)
    axes.set_axisbelow(True)
    return figure, axes


def to_svg(figure: Figure, name: str) -> str:
    """Render to an element of a page, with its CSS variables as colors.

    The same figure gives the same bytes; `name` makes the element ids unique among the plots of a page.
    """
    return _render(figure, name, {name: f"var(--{name})" for name in LIGHT})


def to_svg_file(figure: Figure, name: str) -> str:
    """Render to the content of an SVG file, in the light theme on its background, for any viewer."""
    figure.set_facecolor(CARD)
    return _render(figure, name, LIGHT)


def _render(figure: Figure, name: str, colors: Mapping[str, str]) -> str:
    import matplotlib

    drawn = io.StringIO()
    fonts = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif", "font.size": 10.5}
    with matplotlib.rc_context(fonts), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)  # the browser has it
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    svg = drawn.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for color, meaning in _NAMES.items():
        svg = svg.replace(color, colors[meaning])
    return svg
