"""Scores as a table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from megatron_ipt.observability.console import output_console

_HEADINGS = {
    "f1": "F1",
    "exact": "exact",
    "with_one_pair": "≥1 pair",
    "with_two_pairs": "≥2 pairs",
}


def print_scores(results: Mapping[str, Any]) -> None:
    """Print for every model its metrics over all sets, then by set, in percent."""
    console = output_console()
    console.print("synthesizers on held-out questions: percent, and valid pairs per text")
    table = Table(box=SIMPLE_HEAD)
    for heading in ("model", "set"):
        table.add_column(heading, overflow="fold")
    for heading in ("texts", "asked", *_HEADINGS.values(), "pairs"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, model in results["models"].items():
        for index, (label, metrics) in enumerate({"all sets": model["overall"], **model["sets"]}.items()):
            shares = [_spell(metrics[key]) for key in _HEADINGS]
            numbers = (f"{metrics['contexts']:,}", f"{metrics['questions']:,}")
            table.add_row("" if index else name, label, *numbers, *shares, f"{metrics['pairs_per_text']:.2f}")
        table.add_section()
    console.print(table)


def _spell(share: Mapping[str, float] | None) -> str:
    return "–" if share is None else f"{100 * share['value']:.1f}"
