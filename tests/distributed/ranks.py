"""Ranks of a training run as processes that may die: forked from one server that has imported megatron-core."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import yaml
from pool import free_port

_PRELOADED = ["megatron_ipt.training.pretraining", "megatron_ipt.training.preflight", "torch.utils.tensorboard"]
_REPORTED = re.compile(r" iteration (\d+)/")


class Ranks:
    """`megatron-ipt pretrain` on `world_size` ranks without a launcher between; `prepare` runs first in each rank."""

    def __init__(
        self,
        world_size: int,
        config: dict[str, Any],
        *overrides: str,
        prepare: Callable[..., None] | None = None,
        arguments: Sequence[Any] = (),
    ) -> None:
        self.run = Path(config["run"])
        self._logs = self.run.parent / f"{self.run.name}_{time.monotonic_ns()}"
        self._logs.mkdir(parents=True)
        file = self._logs / "config.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        port = free_port()
        self.processes: list[BaseProcess] = []
        for rank in range(world_size):
            order = (rank, world_size, port, self._logs, [f"--config={file}", *overrides], prepare, arguments)
            self.processes.append(context.Process(target=_serve, args=order))
            self.processes[-1].start()

    def wait(self, timeout_seconds: float = 180.0) -> list[int | None]:
        """The exit codes of all ranks; those that have not ended by then are killed and give None."""
        deadline = time.monotonic() + timeout_seconds
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            _kill_group(process)
        for rank, code in enumerate(codes):
            if code != 0:  # pytest shows it if the test fails
                print(f"rank {rank} ended with {code}:\n{self.output(rank)}")
        return codes

    def wait_for(self, what: Callable[[], bool], timeout_seconds: float = 180.0) -> None:
        """Wait until `what` is true while the ranks run."""
        deadline = time.monotonic() + timeout_seconds
        while not what():
            ended = [process.exitcode for process in self.processes]
            alive = ended == [None] * len(ended) and time.monotonic() < deadline
            assert alive, f"{ended}\n" + "\n".join(self.output(rank) for rank in range(len(ended)))
            time.sleep(0.01)

    def wait_for_iteration(self, iteration: int) -> None:
        """Wait until these ranks have reported a step, or a later one."""
        self.wait_for(lambda: max(map(int, _REPORTED.findall(self.output())), default=0) >= iteration)

    def kill(self, rank: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one rank."""
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, number)

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to all ranks and to every process they have started, as Slurm does."""
        for process in self.processes:
            assert process.pid is not None
            os.killpg(process.pid, number)

    def output(self, rank: int = 0) -> str:
        """What a rank has printed."""
        file = self._logs / f"{rank}.txt"
        return file.read_text(encoding="utf-8") if file.is_file() else ""


def _serve(
    rank: int,
    world_size: int,
    port: int,
    logs: Path,
    command: list[str],
    prepare: Callable[..., None] | None,
    arguments: Sequence[Any],
) -> None:
    os.setpgid(0, 0)
    output = os.open(logs / f"{rank}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(
        OMP_NUM_THREADS="1",
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    from megatron_ipt.checkpointing import background
    from megatron_ipt.cli.pretrain_gpt import main

    # a spawned server of the writers' results would import everything again: 5 s for each rank
    background.get_context = lambda _: multiprocessing.get_context("fork")
    if prepare is not None:
        prepare(*arguments)
    sys.exit(main(command))


def _kill_group(process: BaseProcess) -> None:
    """End a rank with the processes that were writing its checkpoint."""
    assert process.pid is not None
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.join()
