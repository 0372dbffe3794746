"""A range of a row-major tensor is a few boxes of it."""

from __future__ import annotations

from math import prod

import pytest
import torch

from megatron_ipt.checkpointing.optimizer_shards import boxes


@pytest.mark.parametrize("shape", [(7,), (4, 5), (3, 2, 4)], ids=str)
def test_boxes_are_the_range_in_order(shape: tuple[int, ...]) -> None:
    tensor = torch.arange(prod(shape)).reshape(shape)
    for start in range(tensor.numel() + 1):
        for stop in range(start - 2, tensor.numel() + 1):
            found = list(boxes(shape, start, stop))
            parts = [
                tensor[tuple(slice(first, first + size) for first, size in zip(offsets, sizes, strict=True))]
                for offsets, sizes in found
            ]
            assert [tuple(part.shape) for part in parts] == [sizes for _, sizes in found]
            assert [value for part in parts for value in part.flatten().tolist()] == list(range(start, stop))
            assert all(part.numel() for part in parts)
            assert len(found) <= 2 * len(shape) - 1
