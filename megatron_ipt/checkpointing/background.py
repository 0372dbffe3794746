"""Processes that write a checkpoint while training continues.

megatron-core forks one on each rank: it holds the tensors as they were at that moment (those of a GPU are copied to the
host before) and writes them. Each rank knows of its own process; that all have ended is part of the step's reduction.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
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
from megatron_ipt.parallel.agreement import largest
from megatron_ipt.parallel.child_processes import end_with_parent
from megatron_ipt.parallel.groups import Groups


class WriterKilled(TemporaryFailure):
    """A process that was writing a checkpoint was killed, on whichever rank; all ranks raise it."""


def serve_results() -> None:
    """Start the process through which writers report what they wrote.

    megatron-core (0.16 to 0.19) would start one that survives when this process is killed.
    """
    if filesystem_async._results_queue is None:
        manager = SyncManager(ctx=get_context("spawn"))
        manager.start(end_with_parent)
        filesystem_async._results_queue = manager.Queue()


class BackgroundWriter:
    """One write at a time."""

    def __init__(self, groups: Groups) -> None:
        self._groups, self._queue = groups, AsyncCallsQueue()
        self._receiver: Connection | None = None

    def start(self, request: AsyncRequest, folder: Path) -> None:
        """Write what megatron-core prepared in `request` into `folder`; some ranks have nothing to write."""
        if request.async_fn is not None:
            self._receiver, sender = Pipe(duplex=False)
            request = request._replace(async_fn=partial(_write, request.async_fn, sender, folder, self._groups.rank))
        self._queue.schedule_async_request(request)

    def is_writing_here(self) -> bool:
        """Whether the process of this rank is still writing; asks no other rank."""
        return any(
            not call.async_caller.is_current_async_call_done(False, no_dist=True) for call in self._queue.async_calls
        )

    def wait(self) -> None:
        """Wait until all ranks have written; a collective call.

        Raises:
            CheckpointException: some rank could not write its part; all ranks raise it.
            WriterKilled: the process of some rank was killed.
        """
        try:
            self._queue.maybe_finalize_async_calls(blocking=True)
        except CheckpointException as error:
            if largest(int(self._receive() is None), self._groups):
                reason = "a process that wrote a checkpoint was killed, as the kernel does when memory is short"
                raise WriterKilled(f"{reason}; the same command resumes from the previous checkpoint") from error
            raise

    def take_records(self) -> list[FileRecord]:
        """Size and hash of the files that this rank's process wrote since the last call."""
        return self._receive() or []

    def _receive(self) -> list[FileRecord] | None:
        """The records that this rank's process reported before it ended; None if it was killed first."""
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            return []
        try:
            return receiver.recv() if receiver.poll() else None
        except EOFError:
            return None


def _write(write: Any, sender: Connection, folder: Path, rank: int, *arguments: Any, **settings: Any) -> None:
    """Call megatron-core's `write`, which reports its own failures, then hash the files; in the forked process."""
    write(*arguments, **settings)
    records: list[FileRecord] = []
    with suppress(OSError):
        records = record_files(folder, sorted(folder.glob(f"__{rank}_*")))
    sender.send(records)
