"""Work that megatron-core leaves to rank 0, done by another rank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist


@contextmanager
def acting_alone() -> Iterator[None]:
    """Make `torch.distributed` report to this process that there are no other ranks.

    megatron-core builds sample indices on rank 0 of the job and waits for it elsewhere; where the nodes share no
    filesystem, a rank of each node has to. No code of megatron-core is replaced. Nothing collective may be called here.
    """
    torch_distributed: Any = dist
    is_initialized, get_rank = torch_distributed.is_initialized, torch_distributed.get_rank
    torch_distributed.is_initialized, torch_distributed.get_rank = lambda: False, lambda *_, **__: 0
    try:
        yield
    finally:
        torch_distributed.is_initialized, torch_distributed.get_rank = is_initialized, get_rank
