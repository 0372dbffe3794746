"""metrics.jsonl: one line per log interval, whose metrics also go to the trackers.

JSON has neither NaN nor infinity: such a value, for example the loss of a batch without tokens with loss, is written as
null, and left out when the file is read.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from megatron_ipt.corpus.jsonl import read_intact_records
from megatron_ipt.errors import UserError

METRICS_NAME = "metrics.jsonl"


class Tracker(Protocol):
    """A service that plots metrics over iterations."""

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Record `metrics` at `iteration`."""

    def close(self) -> None:
        """Write everything to the disk or the server."""


class Metrics(Protocol):
    """The destination of a run's metrics."""

    def log(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        """Write one line.

        Raises:
            UserError: the line cannot be written.
        """

    def sync(self) -> None:
        """Flush every line to disk, before a checkpoint is saved: a run that resumes from it keeps these lines."""

    def close(self) -> None:
        """Close files and trackers."""


class NullMetrics:
    """Discards the metrics, on ranks that do not write them."""

    def log(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        """Do nothing."""

    def sync(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class MetricsLog:
    """Appends lines to metrics.jsonl and passes them to the trackers.

    A resumed run removes the lines after the iteration it resumes from, since it will write these again.
    """

    def __init__(self, file: Path, resumed_iteration: int, trackers: Sequence[Tracker] = ()) -> None:
        self._file, self._trackers = file, trackers
        kept = [row for row in _read_rows(file) if row["iteration"] <= resumed_iteration]
        temporary = file.with_name(f".{file.name}.tmp")
        temporary.write_text("".join(map(_line, kept)), encoding="utf-8")
        temporary.replace(file)
        self._handle = file.open("a", encoding="utf-8")

    def log(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        """Write one line, and pass it to the trackers.

        Raises:
            UserError: the line cannot be written.
        """
        try:
            self._handle.write(_line({"iteration": iteration, **metrics}))
            self._handle.flush()
            for tracker in self._trackers:
                tracker.log(iteration, {name: value for name, value in metrics.items() if _is_value(value)})
        except OSError as error:
            remedy = "free space or repair the file system; the same command resumes from the newest checkpoint"
            raise UserError("run", self._file, f"it cannot be written: {error}", remedy) from error

    def sync(self) -> None:
        """Flush every line to disk."""
        os.fsync(self._handle.fileno())

    def close(self) -> None:
        """Close the file and the trackers."""
        self._handle.close()
        for tracker in self._trackers:
            tracker.close()


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics.jsonl, each with the metrics that have a value.

    Lines that a kill or a power failure left incomplete, and lines that are not rows of metrics, are skipped.
    """
    return [{name: value for name, value in row.items() if _is_value(value)} for row in _read_rows(file)]


def _read_rows(file: Path) -> list[dict[str, Any]]:
    rows = (row for row in read_intact_records(file) if isinstance(row, dict))
    return [row for row in rows if isinstance(row.get("iteration"), int)]


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps({name: value if _is_value(value) else None for name, value in row.items()}) + "\n"


def _is_value(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))
