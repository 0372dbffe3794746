"""metrics.jsonl: one line for each report of a run, and the same metrics to the trackers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from megatron_ipt.corpus.jsonl import read_intact_records
from megatron_ipt.errors import UserError


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
        kept = [row for row in read_metrics(file) if row["iteration"] <= resumed_iteration]
        temporary = file.with_name(f".{file.name}.tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        temporary.replace(file)
        self._handle = file.open("a", encoding="utf-8")

    def log(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        """Write one line, and hand it to the trackers.

        Raises:
            UserError: the disk does not take it.
        """
        try:
            self._handle.write(json.dumps({"iteration": iteration, **metrics}) + "\n")
            self._handle.flush()
            for tracker in self._trackers:
                tracker.log(iteration, metrics)
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
    """Return the lines of a metrics.jsonl, without those that a kill or a power failure left incomplete."""
    return list(read_intact_records(file))
