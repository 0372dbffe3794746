"""Child processes of a training run: they ignore the signals that ask it to stop, and die when it dies.

Slurm sends a signal to every process of a task, and a terminal sends Ctrl-C to every process of its group, and so to
these children too.
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
    """Start processes inside it that ignore these signals: a run that stops needs them to save."""
    resource_tracker.ensure_running()  # it would clear the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Have Linux kill this process when its parent ends, for whatever reason; called in a child."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
