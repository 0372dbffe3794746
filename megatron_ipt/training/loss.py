"""The language-model loss and its mean over everything since it was last asked for."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from megatron_ipt.parallel.groups import Groups


class LossMeter:
    """Sums loss and tokens on the device; only `take` communicates."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._sums = self._zeros()

    def add(self, loss_sum: torch.Tensor, tokens: torch.Tensor) -> None:
        """Count one micro-batch of this rank, which is on the last stage of the pipeline."""
        self._sums += torch.stack([loss_sum.detach().double(), tokens.double()])

    def take(self) -> float:
        """Mean loss per token, in nats, over all ranks since the last call; a collective call."""
        dist.all_reduce(self._sums, group=self._groups.data_parallel_with_context)
        dist.all_reduce(self._sums, group=self._groups.pipeline)
        loss_sum, tokens = self._sums.tolist()
        self._sums = self._zeros()
        return loss_sum / tokens if tokens else float("nan")

    def _zeros(self) -> torch.Tensor:
        return torch.zeros(2, dtype=torch.float64, device=self._groups.device)


def next_token_loss(
    loss_mask: torch.Tensor, losses: torch.Tensor, *, meter: LossMeter, per_token: bool
) -> tuple[Any, ...]:
    """What megatron-core's schedules want of a loss function.

    `losses` and `loss_mask` are (micro_batch_size, seq_length). Returns the mean loss of the micro-batch, or with
    `per_token` the sum and the number of tokens, so that the step averages over the tokens of the whole batch.
    """
    mask = loss_mask.reshape(-1).float()
    loss_sum, tokens = torch.sum(losses.float().reshape(-1) * mask), mask.sum()
    meter.add(loss_sum, tokens)
    if per_token:
        return loss_sum, tokens.int(), {}
    return loss_sum / tokens.clamp(min=1.0), {}
