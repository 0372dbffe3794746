"""An end to runs that hang, with the place where every thread of every rank stands."""

from __future__ import annotations

import faulthandler
import os
import platform
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from megatron_ipt.training.state import TrainState
from megatron_ipt.training.trainer import Callback

_OTHER_RANKS_SECONDS = 5.0
_BACKSTOP_SECONDS = 30.0


class Watchdog(Callback):
    """Exits with 75 when a step, with its validation and checkpoint, takes longer than `timeout_seconds`.

    Every rank has its own, and in a hang all of them wait, so that all write their stacks. A thread of Python cannot
    wake while another holds the interpreter in native code: then faulthandler writes the stacks and ends the process.
    """

    def __init__(self, folder: Path, rank: int, timeout_seconds: float) -> None:
        self._file, self._rank, self._timeout_seconds = folder / f"rank_{rank:05d}.txt", rank, timeout_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        """Watch from now on."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._stacks = self._file.open("w", encoding="utf-8")
        self.after_step(TrainState())
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Watch no longer."""
        self._ended.set()
        faulthandler.cancel_dump_traceback_later()
        self._thread.join()
        self._stacks.close()
        self._file.unlink(missing_ok=True)  # a second job on the run may have been faster

    def start(self, state: TrainState) -> None:
        """Give the first step its full time."""
        self.after_step(state)

    def after_step(self, state: TrainState) -> None:
        """Give the next step its full time."""
        self._iteration, self._deadline = state.iteration + 1, time.monotonic() + self._timeout_seconds
        faulthandler.dump_traceback_later(self._timeout_seconds + _BACKSTOP_SECONDS, exit=True, file=self._stacks)

    def _watch(self) -> None:
        while not self._ended.wait(max(0.0, self._deadline - time.monotonic())):
            if time.monotonic() >= self._deadline:
                self._give_up()

    def _give_up(self) -> None:
        what = (
            f"rank {self._rank} on {platform.node()}: iteration {self._iteration} took over {self._timeout_seconds} s"
        )
        print(what, file=self._stacks, flush=True)
        faulthandler.dump_traceback(self._stacks)
        print(f"{what}; stacks in {self._file}", file=sys.stderr, flush=True)
        time.sleep(_OTHER_RANKS_SECONDS)
        os._exit(os.EX_TEMPFAIL)
