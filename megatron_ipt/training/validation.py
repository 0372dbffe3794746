"""Validation: the loss on held-out samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from megatron_ipt.training.callbacks import Callback
from megatron_ipt.training.clock import VALIDATION
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.datasets import ValidationSet
from megatron_ipt.training.loss import LossMeter
from megatron_ipt.training.model_bundle import ModelBundle
from megatron_ipt.training.state import TrainState
from megatron_ipt.training.step import Batches, ForwardBackward


class Validation(Callback):
    """Measures the loss on the same `eval_iters` global batches, every `eval_interval` iterations, at start and end.

    Each of `data.validation_sets` has its own loss. The validation loss of the run is that of the split or, if the
    split has no validation documents, the mean over the sets.

    Validation batches always have the size `global_batch_size`, without ramp-up.
    """

    name = "validation"

    def __init__(
        self,
        context: RunContext,
        bundle: ModelBundle,
        forward_backward: ForwardBackward,
        held_out: Sequence[ValidationSet],
        open_batches: Callable[[Dataset[Any]], Sequence[Batches]],
        meter: LossMeter,
    ) -> None:
        """`open_batches` iterates over a dataset from its first sample; `forward_backward` adds losses to `meter`."""
        self._context, self._training, self._chunks = context, context.config.training, bundle.chunks
        self._forward_backward, self._open_batches, self._meter = forward_backward, open_batches, meter
        self._held_out = held_out
        self._last_iteration = -1

    def start(self, state: TrainState) -> None:
        """Measure the loss before the first step."""
        if state.iteration == 0:
            self._validate(state)

    def between_steps(self, state: TrainState) -> None:
        """Validate if it is due."""
        if state.iteration % self._training.eval_interval == 0:
            self._validate(state)

    def finish(self, state: TrainState) -> None:
        """Validate the final weights, unless that has just happened."""
        if self._last_iteration != state.iteration:
            self._validate(state)

    def _validate(self, state: TrainState) -> None:
        self._last_iteration = state.iteration
        with self._context.clock.outside(VALIDATION):
            losses = {held_out.name: self._measure(held_out) for held_out in self._held_out}
        own = {name: loss for name, loss in losses.items() if name}
        loss = losses.get("", sum(own.values()) / max(len(own), 1))
        state.validation_loss = loss if math.isfinite(loss) else None
        if state.validation_loss is None:
            reason = "all tokens are masked" if math.isnan(loss) else f"it is {loss}"
            parts = [f"no validation loss: {reason}"]
            metrics = {}
        else:
            perplexity = math.exp(min(loss, 700.0))
            parts = [f"validation loss {loss:.4f}", f"perplexity {perplexity:.2f}"]
            metrics = {"validation_loss": loss, "validation_perplexity": perplexity}
        metrics |= {f"validation_loss/{name}": loss for name, loss in own.items() if math.isfinite(loss)}
        parts += [f"{name} {loss:.4f}" for name, loss in own.items()]
        if metrics:
            self._context.metrics.log(state.iteration, metrics)
        self._context.log(" | ".join([f"iteration {state.iteration}", *parts]))

    def _measure(self, held_out: ValidationSet) -> float:
        batches = self._open_batches(held_out.dataset)
        for chunk in self._chunks:
            chunk.eval()
        with torch.no_grad():
            for _ in range(held_out.iterations):
                self._forward_backward(batches, self._training.global_batch_size, forward_only=True)
        for chunk in self._chunks:
            chunk.train()
        return self._meter.take_mean()
