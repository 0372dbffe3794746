"""Runs with local checkpoints, as jobs for the worker pool."""

from __future__ import annotations

import logging
import resource
import signal
from typing import Any


def crashed(given: dict[str, Any], iteration: int) -> bool:
    """`jobs.pretrain`, which fails on all ranks after the step of `iteration`, before anything is saved there."""
    from megatron_ipt.training.callbacks import Callback

    class Crash(Callback):
        def between_steps(self, state: Any) -> None:
            if state.iteration == iteration:
                raise RuntimeError("crash")

    try:
        _pretrain(given, [Crash()])
    except RuntimeError as error:
        return str(error) == "crash"
    return False


def resumed(given: dict[str, Any]) -> tuple[int, list[str]]:
    """`jobs.pretrain`; returns the iteration it resumed from, and what it logged about local checkpoints."""
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


def resumed_on_a_full_disk(given: dict[str, Any], most_bytes: int) -> tuple[int, list[str]]:
    """`resumed`, where no file of this rank grows beyond `most_bytes`."""
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        return resumed(given)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))


def stopped(given: dict[str, Any]) -> str:
    """`jobs.pretrain` that has received a signal before its first step; returns what it says at its end."""
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
    """What is logged about local checkpoints meanwhile."""
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
