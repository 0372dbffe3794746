"""Results on standard output: formatted for a terminal, never cut in a pipe."""

from __future__ import annotations

import sys

from rich.console import Console

_UNLIMITED_COLUMNS = 1_000_000


def output_console() -> Console:
    """Return a console on standard output that prints text literally.

    Longer lines are wrapped at the width of a terminal. In a pipe or a file no line is wrapped or cut, so that paths,
    hashes and numbers can be searched and parsed.
    """
    width = None if sys.stdout.isatty() else _UNLIMITED_COLUMNS
    return Console(width=width, markup=False, emoji=False, highlight=False)
