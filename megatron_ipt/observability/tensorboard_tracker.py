"""Curves for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tensorboard.summary import Writer


class TensorBoardTracker:
    """Writes scalars into a log folder."""

    def __init__(self, folder: Path) -> None:
        self._writer = Writer(str(folder))

    def log(self, iteration: int, figures: Mapping[str, float]) -> None:
        """Each figure as a scalar."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, iteration)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()
