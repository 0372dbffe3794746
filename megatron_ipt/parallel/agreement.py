"""What all ranks must decide alike."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist

from megatron_ipt.parallel.groups import Groups

T = TypeVar("T")


def is_lost_contact(error: RuntimeError) -> bool:
    """Whether a collective call failed because another rank has gone."""
    return isinstance(error, dist.DistBackendError | dist.DistNetworkError) or "gloo/transport" in str(error)


def largest(value: int, groups: Groups) -> int:
    """The largest `value` of any rank; a collective call."""
    box = torch.tensor(value, device=groups.device)
    dist.all_reduce(box, dist.ReduceOp.MAX)
    return int(box)


def from_main(value: T) -> T:
    """The `value` of rank 0; a collective call."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
