"""Figures as inline SVG; their colours are the page's, so that they follow its light and dark themes."""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins that matplotlib draws with; `to_svg` puts the variables of page.html in their place.
INK, MUTED, GRID, CARD = "#010101", "#020202", "#030303", "#080808"
FIRST, SECOND, CHANCE = "#040404", "#050505", "#060606"
HUES = ("#070701", "#070702", "#070703", "#070704", "#070705", "#070706", "#070707", "#070708")
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    CARD: "--card",
    FIRST: "--first",
    SECOND: "--second",
    CHANCE: "--chance",
    **{hue: f"--hue-{number}" for number, hue in enumerate(HUES, start=1)},
}


def open_figure(height_inches: float, width_inches: float = 8.2) -> tuple[Figure, Axes]:
    """An empty figure in the page's colours with a single horizontal axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(colors=MUTED)
    axes.xaxis.label.set_color(MUTED)
    axes.yaxis.label.set_color(MUTED)
    axes.set_axisbelow(True)
    return figure, axes


def to_svg(figure: Figure, name: str) -> str:
    """The same bytes for the same figure; `name` keeps its identifiers apart from another figure's."""
    import matplotlib

    drawn = io.StringIO()
    fonts = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif", "font.size": 10.5}
    with matplotlib.rc_context(fonts), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)  # the browser has it
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = drawn.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg
