"""Scores as a table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

_HEADINGS = {
    "f1": "answer F1",
    "exact": "exact",
    "with_one_pair": "≥ 1 pair",
    "with_two_pairs": "≥ 2 pairs",
    "grounded": "grounded",
}


def print_scores(results: Mapping[str, Any], console: Console | None = None) -> None:
    """For every model its figures over all sets, then by set; percent with standard errors."""
    table = Table(title="synthesizers on held-out questions, %", title_justify="left")
    for heading in ("model", "set"):
        table.add_column(heading)
    for heading in ("texts", "questions", *_HEADINGS.values(), "pairs a text"):
        table.add_column(heading, justify="right")
    for name, model in results["models"].items():
        for place, (label, figures) in enumerate({"all sets": model["overall"], **model["sets"]}.items()):
            shares = [_spell(figures[key]) for key in _HEADINGS]
            numbers = (f"{figures['contexts']:,}", f"{figures['questions']:,}")
            table.add_row("" if place else name, label, *numbers, *shares, f"{figures['pairs_per_text']:.2f}")
        table.add_section()
    (console or Console()).print(table)


def _spell(share: Mapping[str, float] | None) -> str:
    return "–" if share is None else f"{100 * share['value']:.1f} ± {100 * share['stderr']:.1f}"
