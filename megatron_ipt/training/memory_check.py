"""Whether a model fits into the memory it is about to be built in, by the planner's arithmetic."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
import torch.distributed as dist

from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.errors import UserError
from megatron_ipt.models.memory import memory_of_run
from megatron_ipt.parallel.groups import Groups

_GIB = 2**30
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_REMEDY = (
    "use more ranks on more nodes with parallel.tensor_model_parallel_size or pipeline_model_parallel_size, "
    "parallel.use_distributed_optimizer=true or a smaller model; `megatron-ipt plan` finds what fits"
)


@dataclass(frozen=True)
class Need:
    """What one rank needs, and what the place has that it shares with others.

    Attributes:
        place: a node, or a GPU of it.
        held_bytes: weights, gradients and optimizer state, which are certain.
        total_bytes: with activations, which are estimated.
        available_bytes: of the place, for all ranks there.
    """

    place: str
    held_bytes: int
    total_bytes: int
    available_bytes: int


def check_memory(config: PretrainConfig, groups: Groups, transformer_impl: str, log: Callable[[str], None]) -> None:
    """Check the memory of all nodes, or GPUs, before the model is built; a collective call.

    Args:
        log: receives a warning if activations may not fit.

    Raises:
        UserError: weights, gradients and optimizer state do not fit; on all ranks alike.
    """
    precision = config.precision.model_copy(update={"transformer_impl": transformer_impl})
    memory = memory_of_run(config.model_copy(update={"precision": precision}), groups.dp_size, groups.pp_rank)
    held_bytes = memory.total_bytes - memory.activations_bytes
    place, available_bytes = _place(groups.device)
    needs: list[Need | None] = [None] * groups.world_size
    dist.all_gather_object(needs, Need(place, held_bytes, memory.total_bytes, available_bytes))
    for warning in find_shortages(need for need in needs if need is not None):
        log(warning)


def find_shortages(needs: Iterable[Need]) -> list[str]:
    """A warning for each place whose memory may not suffice.

    Raises:
        UserError: it cannot suffice.
    """
    by_place: dict[str, list[Need]] = {}
    for need in needs:
        by_place.setdefault(need.place, []).append(need)
    warnings = []
    for place, ranks in by_place.items():
        held, total = sum(one.held_bytes for one in ranks), sum(one.total_bytes for one in ranks)
        available = min(one.available_bytes for one in ranks)
        described = f"{available / _GIB:.1f} GiB are available to {len(ranks)} rank(s) on {place}"
        if held > available:
            reason = f"weights, gradients and optimizer state alone need {held / _GIB:.1f} GiB, and {described}"
            raise UserError("model", f"{held / _GIB:.1f} GiB", reason, _REMEDY)
        if total > available:
            warnings.append(f"warning: with activations about {total / _GIB:.1f} GiB are needed, and {described}")
    return warnings


def _place(device: torch.device) -> tuple[str, int]:
    """Where this rank's model will be, and the bytes that ranks there have."""
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        return f"{platform.node()}, GPU {torch.cuda.get_device_properties(device).uuid}", free_bytes
    available = psutil.virtual_memory().available
    limit = _CGROUP_LIMIT.read_text(encoding="utf-8").strip() if _CGROUP_LIMIT.is_file() else "max"
    return platform.node(), available if limit == "max" else min(available, int(limit))
