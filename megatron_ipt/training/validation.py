"""Loss on held-out samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from megatron_ipt.training.callbacks import Callback
from megatron_ipt.training.clock import VALIDATION
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.loss import LossMeter
from megatron_ipt.training.model_bundle import ModelBundle
from megatron_ipt.training.state import TrainState
from megatron_ipt.training.step import Batches, ForwardBackward


class Validation(Callback):
    """Every `eval_interval` iterations, at the start and at the end, the loss on the same `eval_iters` global batches.

    Its batches always have the size `global_batch_size`, without ramp-up.
    """

    name = "validation"

    def __init__(
        self,
        context: RunContext,
        bundle: ModelBundle,
        forward_backward: ForwardBackward,
        open_batches: Callable[[], Sequence[Batches]],
        meter: LossMeter,
    ) -> None:
        """`open_batches` returns the validation samples from the first on; `forward_backward` fills `meter`."""
        self._context, self._training, self._chunks = context, context.config.training, bundle.chunks
        self._forward_backward, self._open_batches, self._meter = forward_backward, open_batches, meter
        self._last_iteration = -1

    def start(self, state: TrainState) -> None:
        """Measure the loss before the first step."""
        if state.iteration == 0:
            self._validate(state)

    def between_steps(self, state: TrainState) -> None:
        """Validate if it is time."""
        if state.iteration % self._training.eval_interval == 0:
            self._validate(state)

    def finish(self, state: TrainState) -> None:
        """Validate the final weights, unless that has just been done."""
        if self._last_iteration != state.iteration:
            self._validate(state)

    def _validate(self, state: TrainState) -> None:
        self._last_iteration = state.iteration
        with self._context.clock.outside(VALIDATION):
            loss = self._measure()
        if not math.isfinite(loss):
            state.validation_loss = None
            reason = "none of its tokens bears loss" if math.isnan(loss) else f"it is {loss}"
            self._context.log(f"iteration {state.iteration} | no validation loss: {reason}")
            return
        state.validation_loss = loss
        perplexity = math.exp(min(loss, 700.0))
        self._context.metrics.log(state.iteration, {"validation_loss": loss, "validation_perplexity": perplexity})
        self._context.log(f"iteration {state.iteration} | validation loss {loss:.4f} | perplexity {perplexity:.2f}")

    def _measure(self) -> float:
        batches = self._open_batches()
        for chunk in self._chunks:
            chunk.eval()
        with torch.no_grad():
            for _ in range(self._training.eval_iters):
                self._forward_backward(batches, self._training.global_batch_size, forward_only=True)
        for chunk in self._chunks:
            chunk.train()
        return self._meter.take_mean()
