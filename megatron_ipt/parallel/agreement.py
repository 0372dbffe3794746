"""Decisions that all ranks must share, and ranks that no longer take part."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist

from megatron_ipt.parallel.groups import Groups

T = TypeVar("T")


def is_lost_contact(error: RuntimeError) -> bool:
    """Whether a collective call failed because another rank has ended or cannot be reached."""
    lost = dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError
    return isinstance(error, lost) or "gloo/transport" in str(error)


def largest(value: int, groups: Groups) -> int:
    """The maximum of `value` over all ranks; a collective call."""
    box = torch.tensor(value, device=groups.device)
    dist.all_reduce(box, dist.ReduceOp.MAX)
    return int(box)


def from_main(value: T) -> T:
    """The `value` of rank 0; a collective call."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
