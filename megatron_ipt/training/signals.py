"""Signals after which a run saves and stops: Ctrl-C, SIGTERM, and SIGUSR1, which Slurm sends before a time limit."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from megatron_ipt.parallel.child_processes import STOP_SIGNALS


class StopSignals:
    """Records the signals that this process receives; each step checks them."""

    def __init__(self) -> None:
        self.received = 0
        """Number of the last signal received; 0 before the first."""

    def listen(self) -> None:
        """Install the handlers. The signals no longer end the process, and may arrive any number of times."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._receive)

    def _receive(self, number: int, _: FrameType | None) -> None:
        if not self.received and os.environ.get("RANK", "0") == "0":
            message = f"{signal.Signals(number).name}: the run saves after the current step and exits\n"
            os.write(sys.stderr.fileno(), message.encode())  # not print: it is not reentrant, and may be interrupted
        self.received = number
