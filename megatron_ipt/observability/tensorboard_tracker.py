"""Curves for TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter


class TensorBoardTracker:
    """Writes scalars into a log folder; a resumed run takes the place of what had been written after `iteration`."""

    def __init__(self, folder: Path, resumed_iteration: int) -> None:
        self._writer = EventFileWriter(str(folder))
        restart = SessionLog(status=SessionLog.START)
        self._writer.add_event(Event(wall_time=time.time(), step=resumed_iteration + 1, session_log=restart))

    def log(self, iteration: int, figures: Mapping[str, float]) -> None:
        """Each figure as a scalar."""
        for name, value in figures.items():
            self._writer.add_event(Event(wall_time=time.time(), step=iteration, summary=scalar_pb(name, value)))
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()
