"""Forward and backward over the micro-batches of one global batch, and the optimizer step."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any

from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.pipeline_parallel import get_forward_backward_func

from megatron_ipt.training.loss import LossSink, next_token_loss
from megatron_ipt.training.state import TrainState
from megatron_ipt.training.stragglers import ComputeClock

Batches = Iterator[dict[str, Any]]


class ForwardBackward:
    """megatron-core's schedule (plain, 1F1B or interleaved) over the micro-batches of a global batch."""

    def __init__(
        self,
        chunks: Sequence[DistributedDataParallel],
        meter: LossSink,
        *,
        data_parallel_size: int,
        micro_batch_size: int,
        seq_length: int,
        packs: bool,
        per_token: bool,
    ) -> None:
        """`packs`: the model lays the samples of a micro-batch end to end."""
        self._chunks, self._meter, self._per_token = list(chunks), meter, per_token
        self._schedule = get_forward_backward_func()
        self._samples_at_once = data_parallel_size * micro_batch_size
        self._shape = {"micro_batch_size": micro_batch_size, "seq_length": seq_length}
        if packs:
            self._shape = {"micro_batch_size": 1, "seq_length": micro_batch_size * seq_length}

    def __call__(self, batches: Sequence[Batches], samples: int, *, forward_only: bool) -> None:
        """Run a global batch of `samples`; `batches` holds an iterator for each model chunk of this rank."""
        self._schedule(
            forward_step_func=self._forward,
            data_iterator=list(batches) if len(self._chunks) > 1 else batches[0],
            model=self._chunks if len(self._chunks) > 1 else self._chunks[0],
            forward_only=forward_only,
            num_microbatches=samples // self._samples_at_once,
            **self._shape,
        )

    def pass_over(self, batches: Sequence[Batches], samples: int) -> None:
        """Take the micro-batches of a global batch and do nothing with them."""
        for chunk_batches in batches:
            for _ in range(samples // self._samples_at_once):
                next(chunk_batches)

    def _forward(self, batches: Batches, model: DistributedDataParallel) -> tuple[Any, Callable[..., Any]]:
        batch = next(batches)
        losses = model(batch["tokens"], batch["position_ids"], batch["attention_mask"], labels=batch["labels"])
        return losses, partial(next_token_loss, batch, meter=self._meter, per_token=self._per_token)


class TrainStep:
    """One optimizer step; keeps what the reports show of it."""

    def __init__(
        self,
        chunks: Sequence[DistributedDataParallel],
        optimizer: MegatronOptimizer,
        schedule: OptimizerParamScheduler,
        forward_backward: ForwardBackward,
        batches: Sequence[Batches],
        *,
        batch_size: Callable[[int], int],
        clock: ComputeClock,
        reseed: Callable[[int], None] | None,
        admit: Callable[[TrainState], bool],
        passed_over: Collection[int],
    ) -> None:
        """`batch_size` tells the samples of the step that begins after so many.

        `reseed` is given the iteration before each step, where dropout draws random numbers. `admit` says, once there
        are gradients, whether they may update the weights; the batches that follow the iterations in `passed_over` are
        not looked at.
        """
        self._chunks, self._optimizer, self._schedule = chunks, optimizer, schedule
        self._forward_backward, self._batches = forward_backward, batches
        self._batch_size, self._clock, self._reseed = batch_size, clock, reseed
        self._admit, self._passed_over = admit, passed_over
        self.learning_rate = self.grad_norm = self.elapsed_seconds = 0.0
        self.skipped_steps = 0

    def __call__(self, state: TrainState) -> None:
        """Update the weights with the next global batch."""
        started_seconds = time.monotonic()
        self.learning_rate = self._optimizer.param_groups[0]["lr"]
        updated, samples = False, self._batch_size(state.consumed_train_samples)
        if state.iteration in self._passed_over:
            self._forward_backward.pass_over(self._batches, samples)
        else:
            self._find_gradients(state, samples)
            if self._admit(state):
                updated, grad_norm, _ = self._optimizer.step()
                self.grad_norm = float(grad_norm or 0.0)
        self.skipped_steps += not updated
        self._schedule.step(increment=samples)
        self.elapsed_seconds += time.monotonic() - started_seconds

    def _find_gradients(self, state: TrainState, samples: int) -> None:
        self._clock.start()
        if self._reseed is not None:
            self._reseed(state.iteration)
        for chunk in self._chunks:
            chunk.zero_grad_buffer()
        self._optimizer.zero_grad()
        self._forward_backward(self._batches, samples, forward_only=False)
