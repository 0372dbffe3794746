"""The loss of every sample of the current step, kept from the meter until the update is accepted."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist

from megatron_ipt.data.micro_batches import sample_ids
from megatron_ipt.parallel.groups import Groups
from megatron_ipt.training.loss import LossMeter


class SampleLosses:
    """Takes the losses of micro-batches, and passes them on to the meter or drops them."""

    def __init__(
        self, meter: LossMeter, groups: Groups, *, batch_size: Callable[[int], int], micro_batch_size: int
    ) -> None:
        self._meter, self._groups = meter, groups
        self._batch_size, self._micro_batch_size = batch_size, micro_batch_size
        self._held: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def add(self, loss_sums: torch.Tensor, tokens: torch.Tensor, source_ids: torch.Tensor) -> None:
        """Keep one micro-batch of this rank; all are (micro_batch_size,)."""
        self._held.append((loss_sums.detach(), tokens, source_ids))

    def totals(self) -> torch.Tensor:
        """Loss and tokens of this rank's part of the batch, (2,) float64."""
        parts = [torch.stack([losses.sum(), tokens.sum()]).double() for losses, tokens, _ in self._held]
        zeros = torch.zeros(2, dtype=torch.float64, device=self._groups.device)
        return sum(parts, start=zeros)

    def pass_on(self) -> None:
        """Add the batch to the meter."""
        for loss_sums, tokens, source_ids in self._held:
            self._meter.add(loss_sums, tokens, source_ids)
        self._held = []

    def drop(self) -> None:
        """Discard the batch."""
        self._held = []

    def of_samples(self, consumed: int) -> dict[int, float]:
        """Loss per token of every sample of the batch that starts after `consumed` samples; a collective call."""
        sums = [torch.stack([loss_sums, tokens], dim=-1).tolist() for loss_sums, tokens, _ in self._held]
        ids = sample_ids(
            consumed,
            global_batch_size=self._batch_size(consumed),
            micro_batch_size=self._micro_batch_size,
            dp_rank=self._groups.dp_rank,
            dp_size=self._groups.dp_size,
        )
        pairs = zip(ids, sums, strict=False)  # pipeline stages before the last have no losses
        mine = {index: part for indices, parts in pairs for index, part in zip(indices, parts, strict=True)}
        by_rank: list[dict[int, list[float]]] = [{} for _ in range(self._groups.world_size)]
        dist.all_gather_object(by_rank, mine)
        together: dict[int, list[float]] = {}  # ranks that share a sequence have part of its loss each
        for index, (loss_sum, tokens) in (item for rank in by_rank for item in rank.items()):
            before = together.get(index, [0.0, 0.0])
            together[index] = [before[0] + loss_sum, before[1] + tokens]
        return {index: loss_sum / max(tokens, 1.0) for index, (loss_sum, tokens) in together.items()}
