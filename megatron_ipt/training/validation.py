"""Loss on held-out samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from megatron.core.distributed import DistributedDataParallel

from megatron_ipt.observability.metrics import MetricsLog
from megatron_ipt.training.loss import LossMeter
from megatron_ipt.training.state import TrainState
from megatron_ipt.training.step import Batches, ForwardBackward
from megatron_ipt.training.trainer import Callback


class Validation(Callback):
    """Every `eval_interval` iterations and at the end, the loss on the same `eval_iters` global batches."""

    def __init__(
        self,
        chunks: Sequence[DistributedDataParallel],
        forward_backward: ForwardBackward,
        open_batches: Callable[[], Sequence[Batches]],
        meter: LossMeter,
        *,
        global_batch_size: int,
        eval_interval: int,
        eval_iters: int,
        metrics: MetricsLog | None,
        report: Callable[[str], None],
    ) -> None:
        self._chunks, self._forward_backward, self._open_batches = chunks, forward_backward, open_batches
        self._meter, self._metrics, self._report = meter, metrics, report
        self._samples, self._interval, self._iters = global_batch_size, eval_interval, eval_iters
        self._last_iteration = -1

    def start(self, state: TrainState) -> None:
        """The loss before the first step, against which the fall is measured."""
        if state.iteration == 0:
            self._validate(state)

    def after_step(self, state: TrainState) -> None:
        """Validate when it is time."""
        if state.iteration % self._interval == 0:
            self._validate(state)

    def finish(self, state: TrainState) -> None:
        """Validate the final weights, unless that has just been done."""
        if self._last_iteration != state.iteration:
            self._validate(state)

    def _validate(self, state: TrainState) -> None:
        self._last_iteration = state.iteration
        batches = self._open_batches()
        for chunk in self._chunks:
            chunk.eval()
        with torch.no_grad():
            for _ in range(self._iters):
                self._forward_backward(batches, self._samples, forward_only=True)
        for chunk in self._chunks:
            chunk.train()
        loss = state.validation_loss = self._meter.take().mean
        perplexity = math.exp(min(loss, 700.0))
        if self._metrics is not None:
            self._metrics.log(state.iteration, {"validation_loss": loss, "validation_perplexity": perplexity})
        self._report(f"iteration {state.iteration} | validation loss {loss:.4f} | perplexity {perplexity:.2f}")
