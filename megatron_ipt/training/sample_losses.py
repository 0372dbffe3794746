"""The losses of the samples of the current step, held back until the update is accepted or rejected."""

from __future__ import annotations

from collections.abc import Callable

import torch

from megatron_ipt.data.micro_batches import sample_ids
from megatron_ipt.parallel.agreement import gather
from megatron_ipt.parallel.groups import Groups
from megatron_ipt.training.loss import LossMeter


class SampleLosses:
    """Collects the losses of micro-batches, and passes them on to the meter or discards them."""

    def __init__(
        self, meter: LossMeter, groups: Groups, *, batch_size: Callable[[int], int], micro_batch_size: int
    ) -> None:
        """
        Args:
            meter: receives the losses of accepted batches.
            groups: the process groups.
            batch_size: returns the global batch size of the step after the given number of consumed samples.
            micro_batch_size: samples per micro-batch.
        """
        self._meter, self._groups = meter, groups
        self._batch_size, self._micro_batch_size = batch_size, micro_batch_size
        self._pending: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def add(self, loss_sums: torch.Tensor, tokens: torch.Tensor, source_ids: torch.Tensor) -> None:
        """Store one micro-batch of this rank; all are (micro_batch_size,)."""
        self._pending.append((loss_sums.detach(), tokens, source_ids))

    def totals(self) -> torch.Tensor:
        """Return the sums of loss and tokens over this rank's part of the batch, (2,) float64."""
        parts = [torch.stack([losses.sum(), tokens.sum()]).double() for losses, tokens, _ in self._pending]
        zeros = torch.zeros(2, dtype=torch.float64, device=self._groups.device)
        return sum(parts, start=zeros)

    def pass_on(self) -> None:
        """Add the batch to the meter."""
        for loss_sums, tokens, source_ids in self._pending:
            self._meter.add(loss_sums, tokens, source_ids)
        self._pending = []

    def drop(self) -> None:
        """Discard the batch."""
        self._pending = []

    def of_samples(self, consumed: int) -> dict[int, float]:
        """Return the loss per token of each sample, by index; a collective call.

        `consumed` is the number of samples before the batch.
        """
        sums = [torch.stack([loss_sums, tokens], dim=-1).tolist() for loss_sums, tokens, _ in self._pending]
        ids = sample_ids(
            consumed,
            global_batch_size=self._batch_size(consumed),
            micro_batch_size=self._micro_batch_size,
            dp_rank=self._groups.dp_rank,
            dp_size=self._groups.dp_size,
        )
        pairs = zip(ids, sums, strict=False)  # pipeline stages before the last have no losses
        mine = {index: part for indices, parts in pairs for index, part in zip(indices, parts, strict=True)}
        by_rank = gather(mine)
        # Context-parallel ranks hold parts of a sequence's loss sum. Tensor ranks hold equal sums, which multiply loss
        # and tokens by the same factor.
        together: dict[int, list[float]] = {}
        for index, (loss_sum, tokens) in (item for rank in by_rank for item in rank.items()):
            before = together.get(index, [0.0, 0.0])
            together[index] = [before[0] + loss_sum, before[1] + tokens]
        return {index: loss_sum / max(tokens, 1.0) for index, (loss_sum, tokens) in together.items()}
