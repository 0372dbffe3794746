"""What all ranks must decide alike."""

from __future__ import annotations

import torch
import torch.distributed as dist

from megatron_ipt.parallel.groups import Groups


def largest(value: int, groups: Groups) -> int:
    """The largest `value` of any rank; a collective call."""
    box = torch.tensor(value, device=groups.device)
    dist.all_reduce(box, dist.ReduceOp.MAX)
    return int(box)
