"""Values on which all ranks agree, and detection of lost ranks."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist

from megatron_ipt.parallel.groups import Groups

T = TypeVar("T")


def is_lost_contact(error: RuntimeError) -> bool:
    """Return whether a collective call failed because another rank has exited or cannot be reached."""
    lost = dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError
    return isinstance(error, lost) or "gloo/transport" in str(error)


def max_over_ranks(value: int, groups: Groups) -> int:
    """Return the maximum of `value` over all ranks; a collective call."""
    tensor = torch.tensor(value, device=groups.device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def gather(value: T) -> list[T]:
    """Return the `value` of each rank, in the order of ranks; a collective call."""
    values = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_from_main(value: T) -> T:
    """Return the `value` of rank 0; a collective call."""
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
