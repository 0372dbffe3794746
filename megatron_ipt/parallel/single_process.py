"""Work that megatron-core does only on rank 0, on another rank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist


@contextmanager
def acting_as_single_process() -> Iterator[None]:
    """Make `torch.distributed` report, in this process, that it is not initialized and that the rank is 0.

    megatron-core (0.16) builds sample indices on rank 0 of the job only; if the nodes share no filesystem, one
    rank of each node has to build them. No code of megatron-core is replaced. Collective calls are not allowed inside.
    """
    torch_distributed: Any = dist
    is_initialized, get_rank = torch_distributed.is_initialized, torch_distributed.get_rank
    torch_distributed.is_initialized, torch_distributed.get_rank = lambda: False, lambda *_, **__: 0
    try:
        yield
    finally:
        torch_distributed.is_initialized, torch_distributed.get_rank = is_initialized, get_rank
