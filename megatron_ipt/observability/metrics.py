"""metrics.jsonl: one line for each report of a run, and the same metrics to the trackers.

JSON has no NaN and no infinity: a metric that is one of them, such as the loss of a batch without a token that bears
loss, is null in the file, and missing where the file is read.
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
    """A service that shows curves."""

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Show `metrics` at `iteration`."""

    def close(self) -> None:
        """Write everything to the disk or the server."""


class Metrics(Protocol):
    """Where the metrics of a run go."""

    def log(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        """Write one line.

        Raises:
            UserError: the disk does not take it.
        """

    def sync(self) -> None:
        """Bring every line to the disk: a checkpoint that is saved after this finds them there when it is resumed."""

    def close(self) -> None:
        """Close files and trackers."""


class NullMetrics:
    """Metrics of the ranks that write none."""

    def log(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        """Do nothing."""

    def sync(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class MetricsLog:
    """Appends lines to metrics.jsonl and hands them to the trackers.

    A run that resumes drops the lines after the iteration it resumes from: they are about to be measured again.
    """

    def __init__(self, file: Path, resumed_iteration: int, trackers: Sequence[Tracker] = ()) -> None:
        self._file, self._trackers = file, trackers
        kept = [row for row in _read_rows(file) if row["iteration"] <= resumed_iteration]
        temporary = file.with_name(f".{file.name}.tmp")
        temporary.write_text("".join(map(_line, kept)), encoding="utf-8")
        temporary.replace(file)
        self._handle = file.open("a", encoding="utf-8")

    def log(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        """Write one line, and hand it to the trackers.

        Raises:
            UserError: the disk does not take it.
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
        """Bring every line to the disk."""
        os.fsync(self._handle.fileno())

    def close(self) -> None:
        """Close the file and the trackers."""
        self._handle.close()
        for tracker in self._trackers:
            tracker.close()


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl, each with the metrics that have a value.

    Lines that a kill or a power failure left incomplete, and others that are not rows of metrics, are left out.
    """
    return [{name: value for name, value in row.items() if _is_value(value)} for row in _read_rows(file)]


def _read_rows(file: Path) -> list[dict[str, Any]]:
    rows = (row for row in read_intact_records(file) if isinstance(row, dict))
    return [row for row in rows if isinstance(row.get("iteration"), int)]


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps({name: value if _is_value(value) else None for name, value in row.items()}) + "\n"


def _is_value(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))
