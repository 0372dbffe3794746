"""Python's garbage collection between steps, on all ranks at the same time."""

from __future__ import annotations

import gc

from megatron_ipt.training.callbacks import Callback
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.state import TrainState


class GarbageCollection(Callback):
    """Collects every `manual_gc_interval` iterations, and before validations, if `manual_gc` is on.

    With automatic collection, ranks collect in different steps, and each collection delays all ranks.
    """

    def __init__(self, context: RunContext) -> None:
        self._training = context.config.training

    def start(self, state: TrainState) -> None:
        """Disable automatic collection."""
        if self._training.manual_gc:
            gc.collect()
            gc.disable()

    def between_steps(self, state: TrainState) -> None:
        """Collect if it is due, or if a validation follows."""
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
        """Enable automatic collection."""
        if self._training.manual_gc:
            gc.enable()
