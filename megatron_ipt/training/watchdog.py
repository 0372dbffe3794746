"""Ends a run that hangs, after writing the stack of every thread on every rank."""

from __future__ import annotations

import faulthandler
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from megatron_ipt.attempts import record_exit
from megatron_ipt.training.callbacks import Callback
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.model_bundle import ModelBundle
from megatron_ipt.training.state import TrainState

_OTHER_RANKS_SECONDS = 5.0
_BACKSTOP_SECONDS = 30.0


class Watchdog(Callback):
    """Exits with 75 when a step, including its validation and checkpoint, takes longer than `hang_timeout_seconds`.

    Each rank has its own watchdog. In a hang all ranks wait, so all of them write their stacks. If native code holds
    the GIL, the watchdog thread cannot run; faulthandler then writes the stacks and ends the process.
    """

    name = "watchdog"

    def __init__(self, context: RunContext) -> None:
        self._rank, self._timeout_seconds = context.groups.rank, context.config.faults.hang_timeout_seconds
        self._file = context.run / "stacks" / f"rank_{self._rank:05d}.txt"
        self._watching = ExitStack()

    def setup(self, context: RunContext, bundle: ModelBundle) -> None:
        """Start watching; the start of all callbacks, including a validation, counts as a step."""
        self._watching.enter_context(self._watch())

    def start(self, state: TrainState) -> None:
        """Set the deadline of the first step."""
        self.between_steps(state)

    def between_steps(self, state: TrainState) -> None:
        """Set the deadline of the next step."""
        self._iteration, self._deadline = state.iteration + 1, time.monotonic() + self._timeout_seconds
        faulthandler.dump_traceback_later(self._timeout_seconds + _BACKSTOP_SECONDS, exit=True, file=self._stacks)

    def close(self) -> None:
        """Stop watching."""
        self._watching.close()

    @contextmanager
    def _watch(self) -> Iterator[None]:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        ended = threading.Event()
        thread = threading.Thread(target=self._wait, args=(ended,), name="watchdog", daemon=True)
        with self._file.open("w", encoding="utf-8") as self._stacks:
            self.between_steps(TrainState())
            thread.start()
            try:
                yield
            finally:
                ended.set()
                faulthandler.cancel_dump_traceback_later()
                thread.join()
        self._file.unlink(missing_ok=True)  # a second job on the run may have removed it

    def _wait(self, ended: threading.Event) -> None:
        while not ended.wait(max(0.0, self._deadline - time.monotonic())):
            if time.monotonic() >= self._deadline:
                self._exit()

    def _exit(self) -> None:
        what = (
            f"rank {self._rank} on {platform.node()}: iteration {self._iteration} took over {self._timeout_seconds} s"
        )
        print(what, file=self._stacks, flush=True)
        faulthandler.dump_traceback(self._stacks)
        print(f"{what}; stacks in {self._file}", file=sys.stderr, flush=True)
        time.sleep(_OTHER_RANKS_SECONDS)
        record_exit(os.EX_TEMPFAIL)
        os._exit(os.EX_TEMPFAIL)
