"""Writing of checkpoints in background processes while training continues.

megatron-core forks a process on each rank, which holds a snapshot of the tensors (GPU tensors are copied to the host
first) and writes them. Each rank can only query its own process; whether all have ended is part of the reduction of
each step.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from functools import cache, partial
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any

from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue, AsyncRequest
from torch.distributed.checkpoint.api import CheckpointException

from megatron_ipt.checkpointing.contents import record_files
from megatron_ipt.corpus.manifest import FileRecord
from megatron_ipt.errors import TemporaryFailure
from megatron_ipt.parallel.agreement import max_over_ranks
from megatron_ipt.parallel.child_processes import end_with_parent
from megatron_ipt.parallel.groups import Groups

logger = logging.getLogger(__name__)

_START_SECONDS = 60.0
"""A forked process runs within milliseconds."""


class WriterKilled(TemporaryFailure):
    """A process that was writing a checkpoint was killed on some rank; raised on all ranks."""


@cache
def _results_server() -> SyncManager:
    """Start the process that serves the queues through which writers report their results; once per process.

    The one that megatron-core (0.16 to 0.19) starts survives when this process is killed.
    """
    manager = SyncManager(ctx=get_context("spawn"))
    manager.start(end_with_parent)
    return manager


class BackgroundWriter:
    """Writes one checkpoint at a time in the background."""

    def __init__(self, groups: Groups) -> None:
        self._groups, self._queue = groups, AsyncCallsQueue()
        self._results: Any = None
        self._receiver: Connection | None = None

    def serve_results(self) -> None:
        """Give megatron-core a queue for the results; call this before a request is prepared.

        Each `BackgroundWriter` has its own queue: megatron-core's global one may still hold results of a run that
        failed in this process, which the next run would take for its own.
        """
        if self._results is None:
            self._results = _results_server().Queue()
        filesystem_async._results_queue = self._results

    def start(self, request: AsyncRequest, folder: Path) -> None:
        """Start writing megatron-core's `request` into `folder`; some ranks have nothing to write."""
        if request.async_fn is None:
            self._queue.schedule_async_request(request)
            return
        while not self._has_started(request, folder):
            logger.warning("a process that should write a checkpoint does not start; starting another one")

    def _has_started(self, request: AsyncRequest, folder: Path) -> bool:
        """Start a process, and return whether it runs; if it does not, it is ended and removed from the queue.

        In Python 3.11, a forked process hangs if another thread holds a lock of the interpreter at that moment, as
        threads of torch's collectives do when they end.
        """
        self._receiver, sender = Pipe(duplex=False)
        write = partial(_write, request.async_fn, sender, folder, self._groups.rank)
        self._queue.schedule_async_request(request._replace(async_fn=partial(_report_start, sender, write)))
        process = self._queue.async_calls[-1].async_caller.process
        deadline = time.monotonic() + _START_SECONDS
        while process.is_alive() and time.monotonic() < deadline:
            if self._receiver.poll(0.1):
                break
        if self._receiver.poll():
            self._receiver.recv()
            return True
        if not process.is_alive():
            return True  # it was killed, which `wait` reports
        process.kill()
        process.join()
        self._queue.async_calls.pop()
        self._queue.call_idx -= 1  # megatron-core compares it over the ranks
        return False

    def is_writing_here(self) -> bool:
        """Return whether the process of this rank is still writing; not a collective call."""
        return any(
            not call.async_caller.is_current_async_call_done(False, no_dist=True) for call in self._queue.async_calls
        )

    def wait(self) -> None:
        """Wait until all ranks have written; a collective call.

        Raises:
            CheckpointException: some rank could not write its part; raised on all ranks.
            WriterKilled: the process of some rank was killed; raised on all ranks.
        """
        try:
            self._queue.maybe_finalize_async_calls(blocking=True)
        except CheckpointException as error:
            if max_over_ranks(int(self._receive() is None), self._groups):
                reason = (
                    "a process that was writing a checkpoint was killed, perhaps because the node ran out of memory"
                )
                raise WriterKilled(f"{reason}; the same command resumes from the previous checkpoint") from error
            raise

    def take_records(self) -> list[FileRecord]:
        """Return the sizes and hashes of the files that this rank's process has written since the last call."""
        return self._receive() or []

    def _receive(self) -> list[FileRecord] | None:
        """Return the records that this rank's process reported; None if it was killed first."""
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            return []
        try:
            return receiver.recv() if receiver.poll() else None
        except EOFError:
            return None


def _report_start(sender: Connection, write: Any, *arguments: Any, **settings: Any) -> None:
    """Report that this forked process runs, then call `write`."""
    sender.send(None)
    write(*arguments, **settings)


def _write(write: Any, sender: Connection, folder: Path, rank: int, *arguments: Any, **settings: Any) -> None:
    """Call megatron-core's `write`, which reports its own failures, then hash the files; runs in the forked process."""
    write(*arguments, **settings)
    records: list[FileRecord] = []
    with suppress(OSError):
        records = record_files(folder, sorted(folder.glob(f"__{rank}_*")))
    sender.send(records)
