"""Wall time of a run: its steps, and the validations and checkpoints between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

VALIDATION, CHECKPOINT, LOCAL_CHECKPOINT = "validation", "checkpoint", "local_checkpoint"


@dataclass
class Spent:
    """Time spent on one kind of work outside the steps."""

    times: int = 0
    seconds: float = 0.0

    @property
    def mean_seconds(self) -> float:
        """Mean duration; 0 before the first time."""
        return self.seconds / max(self.times, 1)


class RunClock:
    """Measures the wall time of whole log intervals, as Megatron-LM does.

    Steps are asynchronous on a GPU, so the host cannot time a single one. An interval ends when the device has finished
    all work queued in it.
    """

    def __init__(
        self, wait_for_device: Callable[[], None] = lambda: None, now: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            wait_for_device: returns when the device has finished all queued work.
            now: returns the time in seconds, from any origin.
        """
        self.now = now
        self.outside_of_steps: dict[str, Spent] = {}
        """Time spent on other work since the clock was created, by kind."""
        self.step_seconds = 0.0
        """Time spent in steps, over all intervals that have ended."""
        self._wait_for_device = wait_for_device
        self._since_seconds = now()

    @classmethod
    def of(cls, device: torch.device) -> RunClock:
        """Return a clock for a run on `device`."""
        return cls(torch.cuda.synchronize) if device.type == "cuda" else cls()

    @property
    def running_seconds(self) -> float:
        """Time spent in steps so far, including the current interval."""
        return self.step_seconds + self.now() - self._since_seconds

    def start(self) -> None:
        """Start the first interval."""
        self._since_seconds = self.now()

    def take_interval(self) -> float:
        """End an interval and start the next; return its length in seconds, without time spent outside the steps."""
        self._wait_for_device()
        now = self.now()
        seconds, self._since_seconds = now - self._since_seconds, now
        self.step_seconds += seconds
        return seconds

    @contextmanager
    def outside(self, kind: str, *, is_new: bool = True) -> Iterator[None]:
        """Measure work that is not part of the steps; `is_new` is false for the continuation of earlier work."""
        self._wait_for_device()
        started_seconds = self.now()
        try:
            yield
        finally:
            self._wait_for_device()
            seconds = self.now() - started_seconds
            self._since_seconds += seconds
            spent = self.outside_of_steps.setdefault(kind, Spent())
            spent.times += is_new
            spent.seconds += seconds

    def spent_on(self, kind: str) -> Spent:
        """Return the time spent on one kind of work so far."""
        return self.outside_of_steps.get(kind, Spent())
