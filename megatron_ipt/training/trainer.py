"""The loop: step, count, tell the callbacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from megatron_ipt.training.state import TrainState


class Step(Protocol):
    """One optimizer step on the next global batch."""

    def __call__(self, state: TrainState) -> None:
        """Update the weights; `state` counts the steps before this one."""


class Callback:
    """Something that watches a run; every rank calls every callback, in the same order."""

    def start(self, state: TrainState) -> None:
        """Called once, before the first step."""

    def after_step(self, state: TrainState) -> None:
        """Called after each step, which `state` already counts."""

    def finish(self, state: TrainState) -> None:
        """Called once, after the last step."""

    def leave(self, state: TrainState) -> None:
        """Called once instead of `finish` when the run has to stop in the middle and will go on another time."""


class Trainer:
    """Runs steps until `train_iters`, or an iteration divisible by `exit_interval`, or until it must leave."""

    def __init__(
        self,
        step: Step,
        state: TrainState,
        *,
        train_iters: int,
        batch_size: Callable[[int], int],
        exit_interval: int | None = None,
        callbacks: Sequence[Callback] = (),
        must_leave: Callable[[], bool] = lambda: False,
    ) -> None:
        """`batch_size` tells the samples of the step that begins after so many.

        `must_leave` is asked before each step, and answers alike on all ranks."""
        self.state = state
        self.has_left = False
        self._must_leave = must_leave
        self._step, self._callbacks = step, callbacks
        self._train_iters, self._batch_size, self._exit_interval = train_iters, batch_size, exit_interval

    def run(self) -> TrainState:
        """Train to the end and return how far it came."""
        for callback in self._callbacks:
            callback.start(self.state)
        while self.state.iteration < self._train_iters:
            if self._must_leave():
                return self._leave()
            self._step(self.state)
            self.state.advance(self._batch_size(self.state.consumed_train_samples))
            for callback in self._callbacks:
                callback.after_step(self.state)
            if self._exit_interval is not None and self.state.iteration % self._exit_interval == 0:
                break
        for callback in self._callbacks:
            callback.finish(self.state)
        return self.state

    def _leave(self) -> TrainState:
        for callback in self._callbacks:
            callback.leave(self.state)
        self.has_left = True
        return self.state
