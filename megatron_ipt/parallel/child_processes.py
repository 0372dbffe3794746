"""Processes that serve the training: they outlive the signals that ask it to stop, and never the training itself.

Slurm sends a signal to every process of a task, and a terminal sends Ctrl-C to every process of its group, so they are
sent to those that serve the training too.
"""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_PR_SET_PDEATHSIG = 1


@contextmanager
def outliving_stop_signals() -> Iterator[None]:
    """Processes that are started inside ignore the signals: a run that stops needs them to save."""
    resource_tracker.ensure_running()  # it would clear the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Called in a child: Linux shall kill it when its parent ends, however that comes."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
