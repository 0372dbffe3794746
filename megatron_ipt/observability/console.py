"""Results on standard output: formatted for a terminal, whole in a pipe."""

from __future__ import annotations

import sys

from rich.console import Console

_UNLIMITED_COLUMNS = 1_000_000


def output_console() -> Console:
    """A console on standard output that prints text literally.

    A terminal's width wraps what is longer. A pipe or a file has no width: no line is wrapped or cut there, so that
    paths, hashes and figures can be searched and parsed.
    """
    width = None if sys.stdout.isatty() else _UNLIMITED_COLUMNS
    return Console(width=width, markup=False, emoji=False, highlight=False)
