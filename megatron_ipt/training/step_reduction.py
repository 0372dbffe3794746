"""The single collective call of a step besides megatron-core's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel

from megatron_ipt.parallel.child_processes import STOP_SIGNALS
from megatron_ipt.parallel.host_copies import copy_to_device
from megatron_ipt.training.callbacks import Callback
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.sample_losses import SampleLosses


@dataclass(frozen=True)
class Agreement:
    """The result of the reduction, equal on all ranks."""

    loss: float
    """Mean over the unmasked tokens of the global batch; 0 if the batch was skipped or all tokens are masked."""
    has_loss: bool
    """Whether any token of the global batch is unmasked."""
    has_finite_gradients: bool
    stop_signal: int
    votes: dict[str, float]


class StepReduction:
    """Sums loss, non-finite gradients, stop signals and votes of callbacks over all ranks in one all-reduce."""

    def __init__(
        self,
        context: RunContext,
        chunks: Sequence[DistributedDataParallel],
        losses: SampleLosses,
        callbacks: Sequence[Callback],
    ) -> None:
        self._context, self._losses, self._callbacks = context, losses, callbacks
        self._buffers = [buffer for chunk in chunks for buffer in (*chunk.buffers, *chunk.expert_parallel_buffers)]

    def __call__(self) -> Agreement:
        """Reduce over all ranks; a collective call between the backward pass and the optimizer step."""
        received = self._context.stop_signals.received
        signals = [float(received == number) for number in STOP_SIGNALS]
        votes = [callback.vote() for callback in self._callbacks]
        mine = copy_to_device(torch.tensor([*signals, *votes], dtype=torch.float64), self._context.groups.device)
        sums = torch.cat([self._losses.totals(), self._count_bad_gradients(), mine])
        dist.all_reduce(sums)
        loss_sum, tokens, bad, *others = sums.tolist()
        stop_votes, votes = others[: len(STOP_SIGNALS)], others[len(STOP_SIGNALS) :]
        # all ranks of a tensor-parallel group hold the same losses: summing over them multiplies loss and tokens by the
        # same factor, which cancels in the mean
        return Agreement(
            loss=loss_sum / max(tokens, 1.0),
            has_loss=tokens > 0,
            has_finite_gradients=bad == 0,
            stop_signal=max(number * (count > 0) for number, count in zip(STOP_SIGNALS, stop_votes, strict=True)),
            votes={callback.name: total for callback, total in zip(self._callbacks, votes, strict=True)},
        )

    def _count_bad_gradients(self) -> torch.Tensor:
        """Return 1 if a gradient of this rank is NaN or infinite, else 0; (1,) float64.

        A sum is finite only if all its terms are (an overflow counts as non-finite too), and needs one pass, no copy.
        """
        sums = torch.stack([buffer.grad_data.sum(dtype=torch.float32) for buffer in self._buffers])
        return (~torch.isfinite(sums).all()).double()[None]
