"""The order of the samples, which depends only on the number of samples consumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, default_collate


def sample_ids(
    consumed: int, *, global_batch_size: int, micro_batch_size: int, dp_rank: int, dp_size: int
) -> list[list[int]]:
    """Return the samples that one data-parallel rank reads of the next global batch, as a list per micro-batch.

    Over all ranks, they are `consumed` to `consumed + global_batch_size - 1`, whatever the layout. The samples of
    micro-batch i of all ranks are consecutive, those of data-parallel rank 0 first, as in Megatron-LM's
    MegatronPretrainingSampler.
    """
    stride = micro_batch_size * dp_size
    first = consumed + dp_rank * micro_batch_size
    return [list(range(first + step, first + step + micro_batch_size)) for step in range(0, global_batch_size, stride)]


class MicroBatches(Iterator[dict[str, Any]]):
    """An endless iterator over the micro-batches of one data-parallel rank.

    Each is a dict of `tokens`, `labels`, `position_ids` (int64) and `loss_mask` (float32), all (micro_batch_size,
    seq_length), `attention_mask`, None or (micro_batch_size, 1, seq_length, seq_length), and `dataset_id`
    (micro_batch_size,), the index of the sample's entry in the blend.
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
        """Start after `consumed` samples.

        Args:
            dataset: the training or validation samples.
            consumed: the number of samples that earlier steps have read.
            batch_size: returns the global batch size of the step that starts after a number of consumed samples.
            micro_batch_size: the number of samples per micro-batch.
            dp_rank: the data-parallel rank.
            dp_size: the number of data-parallel ranks.
            device: where the tensors are moved to.
        """
        self._dataset, self._device = dataset, device
        self.wait_seconds = 0.0
        """Total time that steps have spent waiting for samples."""
        self._ids = _endless_ids(consumed, batch_size, micro_batch_size, dp_rank, dp_size)

    def __next__(self) -> dict[str, Any]:
        started_seconds = time.monotonic()
        # only a blend adds dataset_id to its samples; a single dataset is entry 0
        samples = [{"dataset_id": 0, **self._dataset[index]} for index in next(self._ids)]
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
