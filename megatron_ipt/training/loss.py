"""The language-model loss, and its mean over everything since it was last asked for, in all and by source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist

from megatron_ipt.parallel.groups import Groups


@dataclass(frozen=True)
class SourceLoss:
    """Mean loss per token, in nats, over the `tokens` of one entry of the blend that bore loss."""

    mean: float
    tokens: int


@dataclass(frozen=True)
class Losses:
    """Mean loss per token over everything, and by source; a source of which no token bore loss is left out."""

    mean: float
    sources: Mapping[str, SourceLoss]


class LossSink(Protocol):
    """What takes the losses of a micro-batch."""

    def add(self, loss_sums: torch.Tensor, tokens: torch.Tensor, source_ids: torch.Tensor) -> None:
        """Take one micro-batch of this rank, which is on the last stage; all are (micro_batch_size,)."""


class LossMeter:
    """Sums loss and tokens of every source on the device; only `take` and `sums` communicate."""

    def __init__(self, groups: Groups, sources: Sequence[str]) -> None:
        """`sources` names the entries of the blend in their order."""
        self._groups, self._names = groups, list(sources)
        self._sums, self._carried = self._zeros(), self._zeros()

    def add(self, loss_sums: torch.Tensor, tokens: torch.Tensor, source_ids: torch.Tensor) -> None:
        """Count one micro-batch of this rank, which is on the last stage; all are (micro_batch_size,)."""
        values = torch.stack([loss_sums.detach().double(), tokens.double()], dim=-1)
        is_of_source = source_ids[:, None] == torch.arange(len(self._names), device=source_ids.device)
        self._sums += torch.where(is_of_source[..., None], values[:, None], 0.0).sum(dim=0)

    def take(self) -> Losses:
        """The means over all ranks since the last call; a collective call."""
        sums = self.sums()
        self._sums, self._carried = self._zeros(), self._zeros()
        loss_sum, tokens = (sum(column) for column in zip(*sums, strict=True))
        sources = {
            name: SourceLoss(of_source / int(count), int(count))
            for name, (of_source, count) in zip(self._names, sums, strict=True)
            if count
        }
        return Losses(loss_sum / tokens if tokens else float("nan"), sources)

    def sums(self) -> list[list[float]]:
        """Loss and tokens of each source over all ranks since the last `take`; a collective call."""
        sums = self._sums.clone()
        dist.all_reduce(sums, group=self._groups.data_parallel_with_context)
        dist.all_reduce(sums, group=self._groups.pipeline)
        values: list[list[float]] = (sums + self._carried).tolist()
        return values

    def carry(self, sums: Sequence[Sequence[float]]) -> None:
        """Go on from what `sums` gave, on every rank."""
        self._carried = torch.tensor(sums, dtype=torch.float64, device=self._groups.device)

    def _zeros(self) -> torch.Tensor:
        return torch.zeros(len(self._names), 2, dtype=torch.float64, device=self._groups.device)


def next_token_loss(
    batch: Mapping[str, Any], losses: torch.Tensor, *, meter: LossSink, per_token: bool
) -> tuple[Any, ...]:
    """What megatron-core's schedules want of a loss function.

    `losses` and the `loss_mask` of `batch` are (micro_batch_size, seq_length), its `dataset_id` (micro_batch_size,);
    where ranks share a sequence, they are this rank's slices, and `loss_tokens` counts the tokens of all.
    Returns the mean loss of the micro-batch, or with `per_token` the sum and the number of tokens, so that the step
    averages over the tokens of the whole batch.
    """
    mask = batch["loss_mask"].float()
    loss_sums, tokens = torch.sum(losses.float() * mask, dim=-1), mask.sum(dim=-1)
    meter.add(loss_sums, tokens, batch["dataset_id"])
    if per_token:
        return loss_sums.sum(), tokens.sum().int(), {}
    return loss_sums.sum() / batch.get("loss_tokens", tokens).sum().clamp(min=1.0), {}
