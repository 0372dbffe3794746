"""Signals that ask a run to save and leave: SIGTERM, and SIGUSR1 as Slurm sends it ahead of a limit."""

from __future__ import annotations

import signal
from types import FrameType

from megatron_ipt.parallel.child_processes import STOP_SIGNALS


class StopSignals:
    """Remembers that this process was asked to stop; the run looks at it between two steps."""

    def __init__(self) -> None:
        self.received = 0
        """Number of the signal that came; 0 before one has."""

    def listen(self) -> None:
        """Take the signals from now on: they end nothing by themselves, and may come any number of times."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._receive)

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.received = number
