"""Child processes of a training run: they ignore stop signals, and are killed when the run's process ends.

Slurm sends signals to every process of a task, and a terminal sends Ctrl-C to every process of its group, including
these children.
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
def ignoring_stop_signals() -> Iterator[None]:
    """Block the stop signals; processes started inside inherit this, and can finish a save after a stop signal."""
    resource_tracker.ensure_running()  # multiprocessing unblocks SIGINT and SIGTERM when it starts its tracker
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Have Linux kill this process when its parent ends for any reason; called in the child."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
