"""The wall time of a run: of its steps, and of the work between them that they wait for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

VALIDATION, CHECKPOINT = "validation", "checkpoint"


@dataclass
class Spent:
    """Time spent on one kind of work outside of the steps."""

    times: int = 0
    seconds: float = 0.0

    @property
    def mean_seconds(self) -> float:
        """Of one time; 0 before the first."""
        return self.seconds / max(self.times, 1)


class RunClock:
    """Times whole intervals by the wall, as Megatron-LM does.

    A step returns while the GPU still computes, and a later one waits for it: single steps cannot be timed by the host.
    An interval ends when the device has finished everything that was queued within it.
    """

    def __init__(
        self, wait_for_device: Callable[[], None] = lambda: None, now: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            wait_for_device: returns when the device has done what was queued.
            now: the time in seconds, from any origin.
        """
        self.now = now
        self.outside_of_steps: dict[str, Spent] = {}
        """Time spent on other work since the clock was made, by its kind."""
        self.step_seconds = 0.0
        """Time in steps in all intervals that have ended."""
        self._wait_for_device = wait_for_device
        self._since_seconds = now()

    @classmethod
    def of(cls, device: torch.device) -> RunClock:
        """A clock of a run on `device`."""
        return cls(torch.cuda.synchronize) if device.type == "cuda" else cls()

    @property
    def running_seconds(self) -> float:
        """Time in steps so far, with the interval that has not ended yet."""
        return self.step_seconds + self.now() - self._since_seconds

    def start(self) -> None:
        """Begin the first interval."""
        self._since_seconds = self.now()

    def take_interval(self) -> float:
        """End an interval and begin the next; returns its length, without what was spent outside of steps."""
        self._wait_for_device()
        now = self.now()
        seconds, self._since_seconds = now - self._since_seconds, now
        self.step_seconds += seconds
        return seconds

    @contextmanager
    def outside(self, kind: str, *, is_new: bool = True) -> Iterator[None]:
        """Time work that is no part of the steps; `is_new` is false for the rest of work that was begun before."""
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
        """Time spent on work of one kind so far."""
        return self.outside_of_steps.get(kind, Spent())
