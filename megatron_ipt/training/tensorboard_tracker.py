"""Metrics and configuration for TensorBoard, written with torch's SummaryWriter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


class TensorBoardTracker:
    """Writes to a log folder; a resumed run replaces the metrics logged after `resumed_iteration`."""

    def __init__(self, folder: Path, resumed_iteration: int, config: str) -> None:
        """Open the event file and log `config`, the YAML of the run, as text."""
        self._writer = SummaryWriter(str(folder), purge_step=resumed_iteration + 1)
        indented = "".join(f"    {line}\n" for line in config.splitlines())  # a code block in Markdown
        self._writer.add_text("config", indented, resumed_iteration)

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Log each metric as a scalar."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, iteration)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()
