"""Runs with local checkpoints, as jobs for the worker pool."""

from __future__ import annotations

import errno
import logging
import os
import resource
import shutil
import signal
import time
from pathlib import Path
from typing import Any


def crashed(given: dict[str, Any], iteration: int, *callbacks: Any) -> bool:
    """`jobs.pretrain`, which crashes on all ranks after the step of `iteration`, before a save that is due there."""
    from megatron_ipt.training.callbacks import Callback

    class Crash(Callback):
        def between_steps(self, state: Any) -> None:
            if state.iteration == iteration:
                raise RuntimeError("crash")

    try:
        _pretrain(given, [*callbacks, Crash()])
    except RuntimeError as error:
        return str(error) == "crash"
    return False


def resumed(given: dict[str, Any]) -> tuple[int, list[str]]:
    """`jobs.pretrain`; returns the iteration it resumed from, and its log lines about local checkpoints."""
    from megatron_ipt.training.callbacks import Callback

    started: list[int] = []

    class Start(Callback):
        def start(self, state: Any) -> None:
            started.append(state.iteration)

    lines = logged(lambda: _pretrain(given, [Start()]))
    return started[0], lines


def rolled_back(given: dict[str, Any], iteration: int) -> list[int]:
    """`jobs.pretrain`, where the step after `iteration` is anomalous; returns the iterations it started from."""
    from megatron_ipt.training.anomalies import RollBack
    from megatron_ipt.training.callbacks import Callback

    started: list[int] = []

    class Anomaly(Callback):
        def start(self, state: Any) -> None:
            started.append(state.iteration)

        def before_optimizer_step(self, state: Any, update: Any) -> None:
            if state.iteration == iteration:
                raise RollBack(iteration)

    _pretrain(given, [Anomaly()])
    return started


def resumed_with_master_weights_last(given: dict[str, Any]) -> tuple[int, list[str]]:
    """`resumed`, where the distributed optimizer returns its master weights after the moments."""
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    original = DistributedOptimizer._get_main_param_and_optimizer_states

    def last(self: Any, parameter: Any) -> dict[str, Any]:
        tensors = original(self, parameter)
        return {name: tensors[name] for name in sorted(tensors, key="param".__eq__)}

    DistributedOptimizer._get_main_param_and_optimizer_states = last
    try:
        return resumed(given)
    finally:
        DistributedOptimizer._get_main_param_and_optimizer_states = original


def resumed_with_a_bad_sector(given: dict[str, Any], rank: int) -> tuple[int, list[str]]:
    """`resumed`, where one rank cannot read its local checkpoints."""
    from megatron_ipt.checkpointing import contents

    original = contents.record_file

    def record(file: Path, folder: Path) -> Any:
        if f"rank_{rank:05d}" in file.parts:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))
        return original(file, folder)

    contents.record_file = record
    try:
        return resumed(given)
    finally:
        contents.record_file = original


def crashed_on_a_full_disk(given: dict[str, Any], rank: int, most_bytes: int, iteration: int) -> bool:
    """`crashed`, where no file of one rank grows beyond `most_bytes`."""
    import torch.distributed as dist

    from megatron_ipt.training.callbacks import Callback

    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    class FullDisk(Callback):
        def start(self, state: Any) -> None:
            if dist.get_rank() == rank:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))

    try:
        return crashed(given, iteration, FullDisk())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))


def killed_after_its_last_save(given: dict[str, Any]) -> bool:
    """`jobs.pretrain`, which dies once the shared checkpoint at its end is complete."""
    from megatron_ipt.training.local_checkpoints import LocalCheckpoints

    class Killed(RuntimeError):
        pass

    def die(self: Any, state: Any) -> None:
        raise Killed

    original, LocalCheckpoints.finish = LocalCheckpoints.finish, die
    try:
        _pretrain(given, [])
    except Killed:
        return True
    finally:
        LocalCheckpoints.finish = original
    return False


def recorded_with_a_slow_disk(given: dict[str, Any], rank: int, iteration: int) -> list[str]:
    """`crashed`, where one rank writes for longer than a step takes; returns the progress recorded in the end."""
    from megatron_ipt.checkpointing import local_store

    original = local_store.write_checkpoint

    def write(rank_folder: Path, *arguments: Any) -> Path:
        if rank_folder.name == f"rank_{rank:05d}":
            time.sleep(0.5)
        return original(rank_folder, *arguments)

    local_store.write_checkpoint = write
    try:
        assert crashed(given, iteration)
    finally:
        local_store.write_checkpoint = original
    return [path.name for path in (Path(given["run"]) / "checkpoints").glob(".local_i*")]


def emptied(given: dict[str, Any], iteration: int) -> None:
    """`jobs.pretrain`, where someone empties the local folder after the step of `iteration`."""
    from megatron_ipt.training.callbacks import Callback

    class Cleaner(Callback):
        def between_steps(self, state: Any) -> None:
            if state.iteration == iteration:
                time.sleep(1)  # until the previous checkpoint is written
                shutil.rmtree(given["checkpoint"]["local_folder"])

    _pretrain(given, [Cleaner()])


def resumed_on_a_full_disk(given: dict[str, Any], most_bytes: int) -> tuple[int, list[str]]:
    """`resumed`, where no file of this rank grows beyond `most_bytes`."""
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        return resumed(given)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))


def stopped(given: dict[str, Any]) -> str:
    """`jobs.pretrain`, which has received a signal before its first step; returns its final message."""
    from megatron_ipt.errors import TemporaryFailure
    from megatron_ipt.training.signals import StopSignals

    signals = StopSignals()
    signals.received = signal.SIGTERM
    try:
        _pretrain(given, [], stop_signals=signals)
    except TemporaryFailure as failure:
        return str(failure)
    raise AssertionError("it did not stop")


def device_waits(given: dict[str, Any]) -> list[int]:
    """How often each iteration waits for the device."""
    from megatron_ipt.training.callbacks import Callback

    waits: list[int] = []

    class Counter(Callback):
        def setup(self, context: Any, bundle: Any) -> None:
            context.clock._wait_for_device = self.wait

        def wait(self) -> None:
            if waits:
                waits[-1] += 1

        def vote(self) -> float:
            waits.append(0)
            return 0.0

    _pretrain(given, [Counter()])
    return waits


def logged(act: Any) -> list[str]:
    """The log lines about local checkpoints while `act` runs."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "local checkpoint" in record.getMessage():
                lines.append(record.getMessage())

    handler, logger = Lines(), logging.getLogger("megatron_ipt")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        act()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    return lines


def _pretrain(given: dict[str, Any], callbacks: list[Any], **settings: Any) -> None:
    from megatron_ipt.config.loading import config_from
    from megatron_ipt.config.pretrain import PretrainConfig
    from megatron_ipt.training.pretraining import pretrain

    pretrain(config_from(PretrainConfig, given), callbacks, **settings)
