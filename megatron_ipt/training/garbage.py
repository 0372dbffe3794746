"""Python's garbage collection between steps, on all ranks at once."""

from __future__ import annotations

import gc

from megatron_ipt.training.callbacks import Callback
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.state import TrainState


class GarbageCollection(Callback):
    """Collects every `manual_gc_interval` iterations, and before validations, if `manual_gc` is on.

    A rank that collects by itself holds up all others, each in a step of its own.
    """

    def __init__(self, context: RunContext) -> None:
        self._training = context.config.training

    def start(self, state: TrainState) -> None:
        """Stop Python from collecting by itself."""
        if self._training.manual_gc:
            gc.collect()
            gc.disable()

    def between_steps(self, state: TrainState) -> None:
        """Collect if it is time, or if a validation follows."""
        training = self._training
        if training.manual_gc and any(
            interval and state.iteration % interval == 0
            for interval in (
                training.manual_gc_interval,
                training.eval_interval if training.manual_gc_eval and training.eval_iters else 0,
            )
        ):
            gc.collect()

    def close(self) -> None:
        """Let Python collect again."""
        if self._training.manual_gc:
            gc.enable()
