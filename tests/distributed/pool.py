"""Worker processes that import torch and megatron-core once and then run any number of distributed jobs."""

from __future__ import annotations

import gc
import importlib
import math
import multiprocessing
import os
import random
import signal
import socket
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

_POLL_SECONDS = 1.0
_CONSEQUENCES_SECONDS = 2.0
_PORTS = 20_000, 32_768  # below those that the kernel gives to connections


class WorkerPool:
    """Ranks that start when first needed; a job is a function of a module, called on as many as it asks for."""

    def __init__(self) -> None:
        self._workers: list[tuple[BaseProcess, Connection]] = []

    def run(self, world_size: int, job: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call `job(*arguments)` on `world_size` ranks of a fresh process group; what each returned, by rank."""
        while len(self._workers) < world_size:
            self._workers.append(_start_worker())
        port = free_port()
        for rank in range(world_size):
            with suppress(BrokenPipeError):  # it ended after its last job; its exit code is reported below
                self._workers[rank][1].send((rank, world_size, port, job, arguments))
        answers, failures = self._gather(world_size)
        if failures:
            self._kill()  # a rank may wait forever for one that failed
            described = "\n".join(f"rank {rank} of {world_size}:\n{failures[rank]}" for rank in sorted(failures))
            raise AssertionError(described)
        return [answers[rank] for rank in range(world_size)]

    def _gather(self, world_size: int) -> tuple[dict[int, Any], dict[int, str]]:
        """Wait for all ranks, or for a while after the first failure, which may be the consequence of another."""
        answers: dict[int, Any] = {}
        failures: dict[int, str] = {}
        waiting = {connection: rank for rank, (_, connection) in enumerate(self._workers[:world_size])}
        deadline = math.inf
        while waiting and time.monotonic() < deadline:
            ready = wait(list(waiting), _POLL_SECONDS)
            # an ended worker may leave a process of its own that keeps the connection open
            ended = [connection for connection, rank in waiting.items() if not self._workers[rank][0].is_alive()]
            for connection in [*ready, *(set(ended) - set(ready))]:
                rank = waiting.pop(connection)
                failed, answer = self._receive(rank)
                (failures if failed else answers)[rank] = answer
            if failures:
                deadline = min(deadline, time.monotonic() + _CONSEQUENCES_SECONDS)
        return answers, failures

    def _receive(self, rank: int) -> tuple[bool, Any]:
        """Return whether a job failed, and what it returned or why it failed."""
        process, connection = self._workers[rank]
        try:
            if connection.poll():
                failed, answer = connection.recv()
                return failed, answer
        except EOFError:
            process.join()
        return True, f"the process ended with exit code {process.exitcode}"

    def close(self) -> None:
        """Let the workers end."""
        for process, connection in self._workers:
            connection.send(None)
            process.join()

    def _kill(self) -> None:
        for process, _ in self._workers:
            process.kill()  # it may not have formed its process group yet
            assert process.pid is not None
            with suppress(ProcessLookupError):  # no process of the group is left
                os.killpg(process.pid, signal.SIGKILL)  # those that were writing its checkpoint
        self._workers = []


def _start_worker() -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context(os.environ.get("MEGATRON_IPT_TEST_WORKERS", "spawn"))  # fork: tests/mutation
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,))
    process.start()
    there.close()  # so that the connection ends with the worker
    return process, here


def _serve(connection: Connection) -> None:
    os.setpgid(0, 0)
    os.environ["OMP_NUM_THREADS"] = "1"
    importlib.import_module("megatron_ipt.training.pretraining")
    gc.freeze()  # the end of each run collects garbage, which takes 0.3 s with the objects of these imports
    while (order := connection.recv()) is not None:
        rank, world_size, port, job, arguments = order
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world_size),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        try:
            connection.send((False, job(*arguments)))
        except BaseException:
            connection.send((True, traceback.format_exc()))
        gc.collect()  # of a job that failed; threads of its process groups would keep the machine busy


def free_port() -> int:
    """A port of this machine that nobody listens on, and that no connection takes before the ranks have started."""
    while True:
        port = random.SystemRandom().randrange(*_PORTS)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("", port))
            return port
