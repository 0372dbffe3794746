"""Durations of saves, for the log and the metrics."""

from __future__ import annotations

from pathlib import Path

from megatron_ipt.training.context import RunContext


class SaveTimer:
    """Measures how long a save takes, and for how long it blocks training."""

    def __init__(self, context: RunContext, kind: str) -> None:
        """`kind` is the name under which `context.clock` measures these saves; the metrics' names begin with it."""
        self._context, self._kind = context, kind
        self._iteration = 0
        self._started_seconds = self._blocked_before = 0.0

    def start(self, iteration: int) -> None:
        """Start with the save of `iteration`."""
        clock = self._context.clock
        self._iteration, self._started_seconds = iteration, clock.now()
        self._blocked_before = clock.spent_on(self._kind).seconds

    def report(self, iteration: int, folder: Path) -> None:
        """Report in `iteration` that the save is finished; `folder` is the checkpoint."""
        clock = self._context.clock
        seconds = clock.now() - self._started_seconds
        blocked = clock.spent_on(self._kind).seconds - self._blocked_before
        durations = {f"{self._kind}_seconds": seconds, f"{self._kind}_held_seconds": blocked}
        self._context.metrics.log(iteration, {f"{self._kind}_iteration": self._iteration, **durations})
        self._context.log(f"saved {folder} in {seconds:.1f} s, of which training waited {blocked:.1f} s")
