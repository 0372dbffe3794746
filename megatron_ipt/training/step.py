"""Forward and backward over the micro-batches of one global batch, and the optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any

from megatron.core.distributed import DistributedDataParallel
from megatron.core.pipeline_parallel import get_forward_backward_func

from megatron_ipt.training.callbacks import Callback, PendingUpdate
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.loss import LossSink, next_token_loss
from megatron_ipt.training.model_bundle import ModelBundle
from megatron_ipt.training.sample_losses import SampleLosses
from megatron_ipt.training.state import StepResult, TrainState
from megatron_ipt.training.step_reduction import Agreement, StepReduction

Batches = Iterator[dict[str, Any]]


class ForwardBackward:
    """megatron-core's schedule (plain, 1F1B or interleaved) over the micro-batches of a global batch."""

    def __init__(
        self,
        bundle: ModelBundle,
        meter: LossSink,
        *,
        data_parallel_size: int,
        micro_batch_size: int,
        seq_length: int,
        per_token: bool,
    ) -> None:
        """
        Args:
            bundle: the model chunks.
            meter: receives the losses of micro-batches.
            data_parallel_size: the number of model replicas.
            micro_batch_size: samples per micro-batch.
            seq_length: tokens per sample.
            per_token: see `next_token_loss`.
        """
        self._chunks, self._meter, self._per_token = list(bundle.chunks), meter, per_token
        self._schedule = get_forward_backward_func()
        self._samples_at_once = data_parallel_size * micro_batch_size
        self._shape = {"micro_batch_size": micro_batch_size, "seq_length": seq_length}
        if bundle.packs:
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

    def skip_batch(self, batches: Sequence[Batches], samples: int) -> None:
        """Read the micro-batches of a global batch and discard them."""
        for chunk_batches in batches:
            for _ in range(samples // self._samples_at_once):
                next(chunk_batches)

    def _forward(self, batches: Batches, model: DistributedDataParallel) -> tuple[Any, Callable[..., Any]]:
        batch = next(batches)
        documents = {"packed": batch["packed"]} if "packed" in batch else {}
        losses = model(
            batch["tokens"], batch["position_ids"], batch["attention_mask"], labels=batch["labels"], **documents
        )
        return losses, partial(next_token_loss, batch, meter=self._meter, per_token=self._per_token)


class TrainStep:
    """One optimizer step."""

    def __init__(
        self,
        context: RunContext,
        bundle: ModelBundle,
        forward_backward: ForwardBackward,
        batches: Sequence[Batches],
        losses: SampleLosses,
        callbacks: Sequence[Callback],
        *,
        batch_size: Callable[[int], int],
        reseed: Callable[[int], None] | None,
        read_ahead: Callable[[], None] | None,
        skipped_batches: Collection[int],
    ) -> None:
        """
        Args:
            losses: collects the losses of the micro-batches of `forward_backward`.
            batches: an iterator for each model chunk of this rank.
            batch_size: returns the global batch size of the step after the given number of consumed samples.
            reseed: called with the iteration before each step; None without dropout.
            read_ahead: called while the GPU computes, if another step follows; None on a CPU.
            skipped_batches: see `Attempt`.
        """
        self._bundle, self._forward_backward, self._batches = bundle, forward_backward, batches
        self._losses, self._callbacks = losses, callbacks
        self._batch_size, self._reseed, self._skipped_batches = batch_size, reseed, skipped_batches
        self._read_ahead, self._last = read_ahead, context.config.training.train_iters - 1
        self._reduce = StepReduction(context, bundle.chunks, losses, callbacks)

    def __call__(self, state: TrainState) -> StepResult:
        """Update the weights with the next global batch, unless it is skipped or a callback rejects the update."""
        learning_rate = self._bundle.optimizer.param_groups[0]["lr"]
        samples = self._batch_size(state.consumed_train_samples)
        skips_batch = state.iteration in self._skipped_batches
        if skips_batch:
            self._forward_backward.skip_batch(self._batches, samples)
        else:
            self._compute_gradients(state, samples)
        if self._read_ahead is not None and state.iteration < self._last:
            self._read_ahead()  # the reduction waits for the GPU, after which it would wait for the samples
        agreement = self._reduce()
        is_updated, grad_norm = (False, None) if skips_batch else self._update(state, agreement)
        self._bundle.schedule.step(increment=samples)
        return StepResult(
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            is_skipped=not is_updated,
            samples=samples,
            stop_signal=agreement.stop_signal,
            votes=agreement.votes,
        )

    def _compute_gradients(self, state: TrainState, samples: int) -> None:
        self._bundle.clock.start()
        if self._reseed is not None:
            self._reseed(state.iteration)
        for chunk in self._bundle.chunks:
            chunk.zero_grad_buffer()
        self._bundle.optimizer.zero_grad()
        self._forward_backward(self._batches, samples, forward_only=False)

    def _update(self, state: TrainState, agreement: Agreement) -> tuple[bool, float | None]:
        """Return whether the weights were updated, and the gradient norm; None if the update was rejected."""
        update = PendingUpdate(agreement.loss, agreement.has_finite_gradients, has_loss=agreement.has_loss)
        for callback in self._callbacks:
            callback.before_optimizer_step(state, update)
        if update.is_rejected:
            self._losses.drop()
            return False, None
        self._losses.pass_on()
        is_updated, grad_norm, _ = self._bundle.optimizer.step()
        return bool(is_updated), float(grad_norm or 0.0)
