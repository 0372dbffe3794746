"""The order of the samples, which follows from the number consumed and from nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, default_collate


def sample_ids(
    consumed: int, *, global_batch_size: int, micro_batch_size: int, dp_rank: int, dp_size: int
) -> list[list[int]]:
    """The samples of the next global batch that one data-parallel rank reads, a list for each micro-batch.

    Over all ranks they are `consumed` .. `consumed + global_batch_size - 1`, whatever the layout.
    """
    stride = micro_batch_size * dp_size
    first = consumed + dp_rank * micro_batch_size
    return [list(range(first + step, first + step + micro_batch_size)) for step in range(0, global_batch_size, stride)]


class MicroBatches(Iterator[dict[str, Any]]):
    """One data-parallel rank's micro-batches, beginning after `consumed` samples.

    Each is a dict of `tokens`, `labels`, `position_ids` (int64) and `loss_mask` (float32), all (micro_batch_size,
    seq_length), `attention_mask`, None or (micro_batch_size, 1, seq_length, seq_length), and `dataset_id`
    (micro_batch_size,), the sample's entry in the blend.
    """

    def __init__(
        self,
        dataset: Dataset[dict[str, torch.Tensor]],
        consumed: int,
        *,
        batch_size: Callable[[int], int],
        micro_batch_size: int,
        dp_rank: int,
        dp_size: int,
        device: torch.device,
    ) -> None:
        """`batch_size` tells the samples of the step that begins after so many."""
        self._dataset, self._device = dataset, device
        self.wait_seconds = 0.0
        """Time that the steps have waited for samples."""
        self._ids = _endless_ids(consumed, batch_size, micro_batch_size, dp_rank, dp_size)

    def __next__(self) -> dict[str, Any]:
        started_seconds = time.monotonic()
        samples = [{"dataset_id": 0, **self._dataset[index]} for index in next(self._ids)]  # no blend, no such key
        batch = {name: tensor.to(self._device, non_blocking=True) for name, tensor in default_collate(samples).items()}
        self.wait_seconds += time.monotonic() - started_seconds
        return {"attention_mask": None, **batch}


def _endless_ids(
    consumed: int, batch_size: Callable[[int], int], micro_batch_size: int, dp_rank: int, dp_size: int
) -> Iterator[list[int]]:
    while True:
        samples = batch_size(consumed)
        yield from sample_ids(
            consumed,
            global_batch_size=samples,
            micro_batch_size=micro_batch_size,
            dp_rank=dp_rank,
            dp_size=dp_size,
        )
        consumed += samples
