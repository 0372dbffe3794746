"""metrics.jsonl: one line for each report of a run, and the same figures to the trackers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from megatron_ipt.corpus.jsonl import read_intact_records
from megatron_ipt.errors import UserError


class Tracker(Protocol):
    """A place where curves are watched."""

    def log(self, iteration: int, figures: Mapping[str, float]) -> None:
        """Show `figures` at `iteration`."""

    def close(self) -> None:
        """Bring everything to the disk or the server."""


class MetricsLog:
    """Appends reports to metrics.jsonl and hands them to the trackers.

    A run that resumes drops the lines after the iteration it resumes from: they are about to be measured again.
    """

    def __init__(self, file: Path, resumed_iteration: int, trackers: Sequence[Tracker] = ()) -> None:
        self._file, self._trackers = file, trackers
        self.kept = [row for row in read_metrics(file) if row["iteration"] <= resumed_iteration]
        """The lines of the run so far."""
        temporary = file.with_name(f".{file.name}.tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in self.kept), encoding="utf-8")
        temporary.replace(file)
        self._handle = file.open("a", encoding="utf-8")

    def log(self, iteration: int, figures: Mapping[str, float]) -> None:
        """One line, and the figures to the trackers.

        Raises:
            UserError: the disk does not take them.
        """
        self.note(iteration, figures)
        with self._refusing():
            for tracker in self._trackers:
                tracker.log(iteration, figures)

    def note(self, iteration: int, values: Mapping[str, Any]) -> None:
        """One line that no tracker shows.

        Raises:
            UserError: the disk does not take it.
        """
        with self._refusing():
            self._handle.write(json.dumps({"iteration": iteration, **values}) + "\n")
            self._handle.flush()

    def sync(self) -> None:
        """Bring every line to the disk: a checkpoint that is saved after this finds them there when it is resumed."""
        os.fsync(self._handle.fileno())

    def close(self) -> None:
        """Close the file and the trackers."""
        self._handle.close()
        for tracker in self._trackers:
            tracker.close()

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            remedy = "make room or mend the file system; the same command goes on from the newest checkpoint"
            raise UserError("run", self._file, f"it cannot be written: {error}", remedy) from error


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl, without those that a kill or a power failure left incomplete."""
    return list(read_intact_records(file))
