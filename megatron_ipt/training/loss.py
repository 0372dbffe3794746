"""The language-model loss, and its mean over a log interval, in total and by source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist

from megatron_ipt.parallel.groups import Groups
from megatron_ipt.training.recorder import MetricRecorder, Reduced

SOURCE_LOSS = "source_loss/"


@dataclass(frozen=True)
class SourceLoss:
    """Mean loss per token, in nats, over the unmasked `tokens` of one entry of the blend."""

    mean: float
    tokens: int


@dataclass(frozen=True)
class Losses:
    """Mean loss per unmasked token, in total and by source; sources without unmasked tokens are left out."""

    mean: float
    sources: Mapping[str, SourceLoss]

    @classmethod
    def of(cls, reduced: Mapping[str, Reduced]) -> Losses:
        """Return the losses that `LossMeter.record` recorded."""
        sums = {
            name.removeprefix(SOURCE_LOSS): metric for name, metric in reduced.items() if name.startswith(SOURCE_LOSS)
        }
        loss_sum, tokens = sum(metric.total for metric in sums.values()), sum(metric.weight for metric in sums.values())
        sources = {name: SourceLoss(metric.value, int(metric.weight)) for name, metric in sums.items() if metric.weight}
        return cls(loss_sum / tokens if tokens else float("nan"), sources)


class LossSink(Protocol):
    """A consumer of the losses of micro-batches."""

    def add(self, loss_sums: torch.Tensor, tokens: torch.Tensor, source_ids: torch.Tensor) -> None:
        """Add one micro-batch of this rank, which is in the last pipeline stage; all are (micro_batch_size,)."""


class LossMeter:
    """Sums loss and tokens by source, on the device of this rank."""

    def __init__(self, groups: Groups, sources: Sequence[str]) -> None:
        """`sources` are the names of the entries of the blend, in their order."""
        self._groups, self._names = groups, list(sources)
        self._sums = self._zeros()

    def add(self, loss_sums: torch.Tensor, tokens: torch.Tensor, source_ids: torch.Tensor) -> None:
        """Add one micro-batch of this rank, which is in the last pipeline stage; all are (micro_batch_size,)."""
        values = torch.stack([loss_sums.detach().double(), tokens.double()], dim=-1)
        is_of_source = source_ids[:, None] == torch.arange(len(self._names), device=source_ids.device)
        self._sums += torch.where(is_of_source[..., None], values[:, None], 0.0).sum(dim=0)

    def record(self, recorder: MetricRecorder) -> None:
        """Move the sums into `recorder`: a mean per source, weighted by tokens."""
        for name, (loss_sum, tokens) in zip(self._names, self._take(), strict=True):
            recorder.add(f"{SOURCE_LOSS}{name}", loss_sum, tokens)

    def take_mean(self) -> float:
        """Return the mean per token over all ranks and sources since the last call; a collective call."""
        sums = self._take()
        dist.all_reduce(sums)
        loss_sum, tokens = (sum(column) for column in zip(*sums.tolist(), strict=True))
        return float(loss_sum / tokens) if tokens else float("nan")

    def _take(self) -> torch.Tensor:
        """Return the sums of loss and tokens, (sources, 2) float64, to be summed over all ranks.

        All ranks of a tensor-parallel group compute the same losses, so only tensor rank 0 contributes. Pipeline ranks
        before the last have no losses, and context-parallel ranks have those of their slices.
        """
        sums, self._sums = self._sums, self._zeros()
        return sums if self._groups.tp_rank == 0 else self._zeros()

    def _zeros(self) -> torch.Tensor:
        return torch.zeros(len(self._names), 2, dtype=torch.float64, device=self._groups.device)


def next_token_loss(
    batch: Mapping[str, Any], losses: torch.Tensor, *, meter: LossSink, per_token: bool
) -> tuple[Any, ...]:
    """Compute the loss; megatron-core's schedules call this after each forward pass of the last pipeline stage.

    Args:
        batch: the micro-batch, with `loss_mask` (micro_batch_size, seq_length) and `dataset_id` (micro_batch_size,).
            With context parallelism the mask covers this rank's slices, and `loss_tokens` (micro_batch_size,) counts
            the unmasked tokens of the whole sequences.
        losses: loss of each token, (micro_batch_size, seq_length).
        meter: receives the sums by sample.
        per_token: average over the tokens of the global batch, not over its micro-batches.

    Returns:
        The mean loss of the micro-batch and an empty dict; with `per_token` the sum, the number of tokens and an empty
        dict.
    """
    mask = batch["loss_mask"].float()
    loss_sums, tokens = torch.sum(losses.float() * mask, dim=-1), mask.sum(dim=-1)
    meter.add(loss_sums, tokens, batch["dataset_id"])
    if per_token:
        # megatron-core sums gradients over data and context ranks and divides by the sum of these tokens
        return loss_sums.sum(), tokens.sum().int(), {}
    # With context parallelism this rank holds part of the loss sum, and divides by the tokens of the whole sequences.
    # Gradients are then averaged over data and context ranks, which divides by cp_size once too often: it is right
    # only because megatron-core's schedules multiply the loss by cp_size (0.16 to 0.19: forward_step_calc_loss).
    return loss_sums.sum() / batch.get("loss_tokens", tokens).sum().clamp(min=1.0), {}
