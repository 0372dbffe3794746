"""Correctness and bandwidth of collective calls, between the ranks of a node and between nodes."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from megatron_ipt.parallel.agreement import gather
from megatron_ipt.parallel.groups import Groups
from megatron_ipt.selftest.verdicts import Failure, Skip

_WARM_UP, _REPEATS = 2, 5
_MIB = 2**20


def check_node(groups: Groups, message_mib: int, min_gbytes: float | None) -> str:
    """All-reduce between the ranks of each node, on all nodes at the same time; a collective call.

    Args:
        groups: the process groups.
        message_mib: the size of the messages in MiB.
        min_gbytes: the required bus bandwidth in GB/s; None to require none.

    Raises:
        Skip: no node has several ranks.
        Failure: the sums are wrong, or the bandwidth is too low.
    """
    nodes = _ranks_by_node()
    if max(map(len, nodes)) == 1:
        raise Skip("one rank per node")
    return _check(nodes, groups, message_mib, min_gbytes)


def check_network(groups: Groups, message_mib: int, min_gbytes: float | None) -> str:
    """All-reduce between the n-th ranks of all nodes, for all n at the same time; see `check_node`."""
    nodes = _ranks_by_node()
    if len(nodes) == 1:
        raise Skip("one node")
    if len(set(map(len, nodes))) > 1:
        raise Skip("the nodes have different numbers of ranks")
    return _check([list(ranks) for ranks in zip(*nodes, strict=True)], groups, message_mib, min_gbytes)


def _check(partition: Sequence[list[int]], groups: Groups, message_mib: int, min_gbytes: float | None) -> str:
    torch_distributed: Any = dist  # the function has no type annotations
    group, _ = torch_distributed.new_subgroups_by_enumeration([list(ranks) for ranks in partition])
    bytes_sent = _MIB * message_mib
    if dist.get_world_size(group) == 1:
        return "alone on its node"
    gbytes = _measure(group, bytes_sent // 4, groups.device)
    found = f"{gbytes:.2f} GB/s bus bandwidth over {dist.get_backend()}, {dist.get_world_size(group)} ranks"
    found += f", {bytes_sent // _MIB} MiB"
    if min_gbytes is not None and gbytes < min_gbytes:
        raise Failure(f"{found}: {min_gbytes:g} GB/s are required")
    return found


def _measure(group: dist.ProcessGroup, elements: int, device: torch.device) -> float:
    """Return the bus bandwidth in GB/s: 2 (n - 1) / n of the message per second, as each rank sends in a ring."""
    size = dist.get_world_size(group)
    ranks = torch.full((elements,), 1.0 + dist.get_rank(group), device=device)
    dist.all_reduce(ranks, group=group)
    is_right = bool((ranks == size * (size + 1) / 2).all())
    ranks.zero_()
    for repeat in range(_WARM_UP + _REPEATS):
        if repeat == _WARM_UP:
            _synchronize(device)
            started_seconds = time.monotonic()
        dist.all_reduce(ranks, group=group)
    _synchronize(device)
    seconds = (time.monotonic() - started_seconds) / _REPEATS
    if not is_right:  # raised only now, since the other ranks of the group may have the right sum and would wait
        raise Failure("all-reduce returned a wrong sum")
    return 2 * (size - 1) / size * ranks.nbytes / seconds / 1e9


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _ranks_by_node() -> list[list[int]]:
    names = gather(platform.node())
    return [[rank for rank, name in enumerate(names) if name == node] for node in dict.fromkeys(names)]
