"""The order of the samples, which depends only on the number of samples consumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, default_collate

from megatron_ipt.data.packed_documents import pack_documents
from megatron_ipt.parallel.host_copies import copy_to_device


def sample_ids(
    consumed: int, *, global_batch_size: int, micro_batch_size: int, dp_rank: int, dp_size: int
) -> list[list[int]]:
    """Return the sample indices of one data-parallel rank in the next global batch, as a list per micro-batch.

    Over all ranks, they are `consumed` to `consumed + global_batch_size - 1`, for any layout. The samples of
    micro-batch i of all ranks are consecutive, those of data-parallel rank 0 first, as in Megatron-LM's
    MegatronPretrainingSampler.

    Args:
        consumed: the number of samples before this batch.
        global_batch_size: samples of the batch over all ranks.
        micro_batch_size: samples per micro-batch.
        dp_rank: the data-parallel rank.
        dp_size: the number of data-parallel ranks.
    """
    stride = micro_batch_size * dp_size
    first = consumed + dp_rank * micro_batch_size
    return [list(range(first + step, first + step + micro_batch_size)) for step in range(0, global_batch_size, stride)]


class MicroBatches(Iterator[dict[str, Any]]):
    """An endless iterator over the micro-batches of one data-parallel rank.

    Each is a dict of `tokens`, `labels`, `position_ids` (int64) and `loss_mask` (float32), all (micro_batch_size,
    seq_length), `attention_mask`, None or (micro_batch_size, 1, seq_length, seq_length), and `dataset_id`
    (micro_batch_size,), the index of the sample's entry in the blend. For a model with packed sequences there is also
    `packed`, the PackedSeqParams of the documents of all samples, concatenated.
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
        packs: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start after `consumed` samples.

        Args:
            dataset: the training or validation samples.
            consumed: the number of samples that earlier steps have read.
            batch_size: returns the global batch size of the step that starts after a number of consumed samples.
            micro_batch_size: the number of samples per micro-batch.
            dp_rank: the data-parallel rank.
            dp_size: the number of data-parallel ranks.
            device: where the tensors are copied to.
            packs: whether the model concatenates the samples of a micro-batch.
            now: the time in seconds, from any origin.
        """
        self._dataset, self._device, self._packs, self._now = dataset, device, packs, now
        self.wait_seconds = 0.0
        """Total time that steps have spent waiting for samples, without their copies to the device."""
        self._ids = _endless_ids(consumed, batch_size, micro_batch_size, dp_rank, dp_size)
        self._ahead: dict[str, torch.Tensor] | None = None

    def __next__(self) -> dict[str, Any]:
        started_seconds = self._now()
        on_host, self._ahead = self._ahead or self._read(), None
        self.wait_seconds += self._now() - started_seconds
        packed = {"packed": pack_documents(on_host["position_ids"], self._device)} if self._packs else {}
        batch = {name: copy_to_device(tensor, self._device) for name, tensor in on_host.items()}
        return {"attention_mask": None, **batch, **packed}

    def read_ahead(self) -> None:
        """Read the samples of the next micro-batch into host memory, for example while a GPU computes."""
        self._ahead = self._ahead or self._read()

    def _read(self) -> dict[str, torch.Tensor]:
        # only a blend adds dataset_id to its samples; a single dataset is entry 0
        samples = [{"dataset_id": 0, **self._dataset[index]} for index in next(self._ids)]
        on_host: dict[str, torch.Tensor] = default_collate(samples)
        return on_host


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
