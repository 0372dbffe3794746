"""One process for each worker on this machine; when one fails, all end.

Existing pools do not fit: datatrove's local executor (multiprocessing.Pool) waits forever for a worker that was
killed, and its daemonic workers may not start processes, as vLLM does; concurrent.futures' pool of spawned processes
does not watch a worker that it starts after its first look at them (Python 3.11 and 3.12), and then waits forever too.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from megatron_ipt.errors import TemporaryFailure, UserError
from megatron_ipt.system_errors import explain

_POLL_SECONDS = 5.0


def run_workers(name: str, work: Callable[[int], None], workers: int) -> None:
    """Call `work(worker)` for each worker, in a process of its own.

    The first failure ends all workers and is raised here.

    Raises:
        UserError, TemporaryFailure: a worker raised it, or an error of the system that it stands for.
        TemporaryFailure: a worker was killed.
        RuntimeError: a worker raised something else; its traceback is in the message.
    """
    context = multiprocessing.get_context("spawn")
    running: dict[Connection, BaseProcess] = {}
    try:
        with _no_interrupts():
            for worker in range(workers):
                receiver, sender = context.Pipe(duplex=False)
                process: BaseProcess = context.Process(target=_run, args=(sender, name, work, worker))
                process.start()
                sender.close()
                running[receiver] = process
        while running:
            for receiver in _ended(running):
                _raise_failure(name, receiver)
                running.pop(receiver).join()
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join()


def _ended(running: dict[Connection, BaseProcess]) -> list[Connection]:
    """The workers that have reported or died; a process that a worker started may hold its end of the pipe open."""
    ready = [one for one in wait(list(running), _POLL_SECONDS) if isinstance(one, Connection)]
    return ready or [receiver for receiver, process in running.items() if process.exitcode is not None]


def _raise_failure(name: str, receiver: Connection) -> None:
    try:
        failure: Exception | None = receiver.recv() if receiver.poll() else worker_killed(name)
    except EOFError:
        failure = worker_killed(name)
    if failure is not None:
        raise failure


def worker_killed(name: str) -> TemporaryFailure:
    """The failure of a worker that ended without a report."""
    remedy = "run the same command again: finished parts are kept"
    return TemporaryFailure(f"{name}: a worker was killed, perhaps for lack of memory\n{remedy}")


def _run(sender: Connection, name: str, work: Callable[[int], None], worker: int) -> None:
    _end_with_parent()
    failure: Exception | None = None
    try:
        work(worker)
    except Exception as error:
        failure = portable_failure(error, name, worker)
    sender.send(failure)


def portable_failure(error: Exception, name: str, worker: int) -> UserError | TemporaryFailure | RuntimeError:
    """The failure of a worker as one that can be sent to another process; call it in the `except` clause.

    An internal error becomes text, since some exceptions of libraries cannot be pickled.
    """
    internal = RuntimeError(f"{name}: worker {worker} failed: {error!r}\n{traceback.format_exc()}")
    return explain(error) or internal


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Ignore SIGINT, and let processes started meanwhile ignore it for good.

    Ctrl-C reaches all processes of a terminal; only the one that started the others is to act on it.
    """
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


def _end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, even by SIGKILL."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
