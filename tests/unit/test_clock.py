"""Speed is measured by the wall over whole intervals, with the device done; other work and copies are left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from megatron_ipt.config.loading import config_from
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.data.micro_batches import MicroBatches
from megatron_ipt.training.attempt import Attempt
from megatron_ipt.training.callbacks import Callback
from megatron_ipt.training.clock import VALIDATION, RunClock
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.recorder import Report
from megatron_ipt.training.remaining_time import seconds_left, times_left
from megatron_ipt.training.state import StepResult, TrainState
from megatron_ipt.training.trainer import Trainer


class Machine:
    """A host whose calls return at once, and a device that does what they have queued."""

    def __init__(self) -> None:
        self.seconds = self.queued_seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def wait_for_device(self) -> None:
        self.seconds, self.queued_seconds = self.seconds + self.queued_seconds, 0.0

    def step(self, _: TrainState) -> StepResult:
        """The host takes 1 s and waits for the gradients; the update of 3 s is still queued when it returns."""
        self.wait_for_device()
        self.seconds += 1.0
        self.queued_seconds += 3.0
        return StepResult(samples=2)


class Watcher(Callback):
    """Keeps the reports, and validates for 100 s after the third step."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self.reports = machine, list[Report]()

    def setup(self, context: Any, bundle: Any) -> None:
        self._clock = context.clock

    def after_report(self, state: TrainState, report: Report) -> None:
        self.reports.append(report)

    def between_steps(self, state: TrainState) -> None:
        if state.iteration == 3:
            with self._clock.outside(VALIDATION):
                self._machine.seconds += 100.0


def test_interval_includes_what_the_device_still_has_to_do(make_context: Callable[..., RunContext]) -> None:
    """Two steps take 2 x (1 + 3) s; a clock that stops when a step returns would say 1 + 4, and then 2 with 100."""
    machine = Machine()
    clock = RunClock(machine.wait_for_device, machine.now)
    context = make_context({"training": {"train_iters": 6, "log_interval": 2}}, clock=clock)
    watcher = Watcher(machine)
    bundle: Any = None
    Trainer(context, bundle, Attempt(TrainState(), {}), machine.step, [watcher]).run()
    intervals = [report.interval for report in watcher.reports]
    assert [(one.iterations, one.samples, one.seconds) for one in intervals] == [(2, 4, 8.0)] * 3
    assert clock.step_seconds == 24.0
    assert (clock.spent_on(VALIDATION).times, clock.spent_on(VALIDATION).seconds) == (1, 100.0)


@pytest.mark.parametrize(("device", "waits"), [("cpu", 0), ("cuda", 3)])
def test_a_gpu_is_waited_for(device: str, waits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = list[None]()
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(None))
    clock = RunClock.of(torch.device(device))
    clock.take_interval()
    with clock.outside(VALIDATION):
        pass
    assert len(waited) == waits


class SlowToCopy(torch.Tensor):
    """A tensor whose copy to the device waits 50 s for the work that is queued there."""

    machine: Machine

    def pin_memory(self, *_: Any) -> torch.Tensor:
        self.machine.seconds += 50.0
        return self

    def to(self, *_: Any, **__: Any) -> torch.Tensor:
        self.machine.seconds += 50.0
        return self


def test_waiting_for_data_is_reading_it(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    monkeypatch.setattr(SlowToCopy, "machine", machine, raising=False)

    class Dataset:
        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            machine.seconds += 2.0
            return {name: torch.tensor(index).as_subclass(SlowToCopy) for name in ("tokens", "dataset_id")}

    dataset: Any = Dataset()
    batches = MicroBatches(
        dataset,
        0,
        batch_size=lambda _: 2,
        micro_batch_size=2,
        dp_rank=0,
        dp_size=1,
        device=torch.device("cuda"),
        now=machine.now,
    )
    next(batches)
    assert machine.seconds == 204.0, "two samples were read, and both tensors of their batch pinned and copied"
    assert batches.wait_seconds == 4.0
    batches.read_ahead()
    batches.read_ahead()
    assert machine.seconds == 208.0
    assert next(batches)["tokens"].tolist() == [2, 3]
    assert batches.wait_seconds == 4.0, "nothing was left to read"
    assert next(batches)["tokens"].tolist() == [4, 5]
    assert batches.wait_seconds == 8.0


def test_remaining_time_includes_validations_and_checkpoints() -> None:
    """From the report of iteration 10 of 25: validations at 10, 20 and 25, checkpoints at 20 and 25."""
    machine = Machine()
    clock = RunClock(now=machine.now)
    for seconds in (4.0, 6.0):
        with clock.outside(VALIDATION):
            machine.seconds += seconds
    run = config_from(
        PretrainConfig,
        {"run": "r", "data": {"tokenizer": "t"}},
        ["training.train_iters=25", "training.eval_interval=10", "checkpoint.save_interval=20"],
    )
    assert seconds_left(run, clock, 10, step_seconds=2.0) == 15 * 2.0 + 3 * 5.0
    with clock.outside("checkpoint"):
        machine.seconds += 7.0
    with clock.outside("checkpoint", is_new=False):
        machine.seconds += 1.0
    assert seconds_left(run, clock, 10, step_seconds=2.0) == 15 * 2.0 + 3 * 5.0 + 2 * 8.0
    with clock.outside("local_checkpoint"):
        machine.seconds += 0.5
    assert seconds_left(run, clock, 10, step_seconds=2.0) == 15 * 2.0 + 3 * 5.0 + 2 * 8.0
    rule = run.checkpoint.model_copy(update={"local_folder": "f", "local_interval": 5})
    local = run.model_copy(update={"checkpoint": rule})
    assert seconds_left(local, clock, 10, step_seconds=2.0) == 15 * 2.0 + 3 * 5.0 + 2 * 8.0 + 2 * 0.5, "at 10 and 15"


@pytest.mark.parametrize(
    ("interval", "iteration", "last", "times"), [(10, 10, 20, 2), (10, 11, 20, 1), (10, 20, 20, 1), (7, 20, 20, 1)]
)
def test_times_left(interval: int, iteration: int, last: int, times: int) -> None:
    assert times_left(interval, iteration, last) == times
