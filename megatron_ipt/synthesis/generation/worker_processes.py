"""Run one process per worker on this machine; when one fails, all are terminated.

Existing pools are not suitable. datatrove's local executor (multiprocessing.Pool) waits forever for a worker that was
killed, and its daemonic workers must not start processes, as vLLM does. The process pool of concurrent.futures (Python
3.11 and 3.12) does not watch workers that it spawns later, and then waits forever too.
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

    The first failure terminates all workers and is raised here.

    Args:
        name: the name of the work, for messages.
        work: called with the index of the worker; must be picklable.
        workers: the number of workers.

    Raises:
        UserError, TemporaryFailure: a worker raised it, or a system error that it explains.
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
    """Return the workers that have reported or died."""
    ready = [receiver for receiver in wait(list(running), _POLL_SECONDS) if isinstance(receiver, Connection)]
    # a dead worker's pipe is not closed if a process that it started has inherited it: ask for the exit codes as well
    return ready or [receiver for receiver, process in running.items() if process.exitcode is not None]


def _raise_failure(name: str, receiver: Connection) -> None:
    try:
        failure: Exception | None = receiver.recv() if receiver.poll() else worker_killed(name)
    except EOFError:
        failure = worker_killed(name)
    if failure is not None:
        raise failure


def worker_killed(name: str) -> TemporaryFailure:
    """Return the failure of a worker that exited without a report."""
    remedy = "run the same command again: finished parts are kept"
    return TemporaryFailure(f"{name}: a worker was killed, perhaps because it ran out of memory\n{remedy}")


def _run(sender: Connection, name: str, work: Callable[[int], None], worker: int) -> None:
    _exit_with_parent()
    failure: Exception | None = None
    try:
        work(worker)
    except Exception as error:
        failure = portable_failure(error, name, worker)
    sender.send(failure)


def portable_failure(error: Exception, name: str, worker: int) -> UserError | TemporaryFailure | RuntimeError:
    """Convert a worker's exception to one that can be sent to another process; call it in the `except` clause.

    An internal error is converted to text, since some exceptions of libraries cannot be pickled.
    """
    internal = RuntimeError(f"{name}: worker {worker} failed: {error!r}\n{traceback.format_exc()}")
    return explain(error) or internal


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Ignore SIGINT; processes started in this context inherit that, and ignore it permanently.

    Ctrl-C reaches all processes of the terminal, but only the parent is to act on it: it terminates the workers.
    """
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _exit_with_parent() -> None:
    """Exit this process as soon as its parent is gone, even after SIGKILL."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
