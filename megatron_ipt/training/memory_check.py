"""Check that a model fits in memory before it is built, with the planner's estimate."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.errors import UserError
from megatron_ipt.models.memory import MemoryEstimate, checkpoint_host_bytes, memory_of_run
from megatron_ipt.models.workload import Workload
from megatron_ipt.parallel.agreement import gather
from megatron_ipt.parallel.groups import Groups

_GIB = 2**30
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_REMEDY = (
    "use more ranks on more nodes with parallel.tensor_model_parallel_size or pipeline_model_parallel_size, "
    "parallel.use_distributed_optimizer=true or a smaller model; `megatron-ipt plan` finds what fits"
)


@dataclass(frozen=True)
class Need:
    """The memory that one rank needs on a device or node, and the memory available on it.

    Attributes:
        device: a node, or a GPU of it.
        model_state_bytes: weights, gradients and optimizer state, which are known exactly.
        total_bytes: model_state_bytes plus memory that is estimated or temporary.
        available_bytes: available to all of its ranks together.
        addition: a description of what the total includes beyond model_state_bytes, for the warning.
    """

    device: str
    model_state_bytes: int
    total_bytes: int
    available_bytes: int
    addition: str = "with activations"


def check_memory(config: PretrainConfig, groups: Groups, transformer_impl: str, log: Callable[[str], None]) -> None:
    """Check the memory of all nodes and GPUs before the model is built; a collective call.

    Args:
        log: receives a warning if activations may not fit.

    Raises:
        UserError: weights, gradients and optimizer state do not fit; raised on all ranks.
    """
    needs = gather(_needs(config, groups, transformer_impl))
    for warning in find_shortages(need for of_rank in needs for need in of_rank):
        log(warning)


def _needs(config: PretrainConfig, groups: Groups, transformer_impl: str) -> list[Need]:
    """Return the needs of this rank: the model, and on a GPU's node also the host copy from which saves are written."""
    precision = config.precision.model_copy(update={"transformer_impl": transformer_impl})
    config = config.model_copy(update={"precision": precision})
    memory = memory_of_run(config, groups.dp_size, groups.pp_rank)
    model_state_bytes, node = memory.total_bytes - memory.activations_bytes, platform.node()
    local_bytes = local_copy_bytes(config, memory)
    if groups.device.type != "cuda":
        return [Need(node, model_state_bytes, memory.total_bytes + local_bytes, _available_on_node())]
    gpu = f"{node}, GPU {torch.cuda.get_device_properties(groups.device).uuid}"
    free_bytes, _ = torch.cuda.mem_get_info(groups.device)
    copy_bytes = checkpoint_host_bytes(Workload.of_run(config, groups.dp_size), groups.pp_rank)
    return [
        Need(gpu, model_state_bytes, memory.total_bytes, free_bytes),
        Need(node, 0, copy_bytes + local_bytes, _available_on_node(), "for the host copy of a checkpoint"),
    ]


def local_copy_bytes(config: PretrainConfig, memory: MemoryEstimate) -> int:
    """Return the host memory for the copy of a rank's state from which a local checkpoint is written.

    It is needed in addition to the copy for a shared checkpoint, which may be written at the same time.
    """
    return 0 if config.checkpoint.local_folder is None else memory.weights_bytes + memory.optimizer_bytes


def find_shortages(needs: Iterable[Need]) -> list[str]:
    """Return a warning for each device or node whose memory may not suffice.

    Raises:
        UserError: weights, gradients and optimizer state alone do not fit.
    """
    by_device: dict[str, list[Need]] = {}
    for need in needs:
        by_device.setdefault(need.device, []).append(need)
    warnings = []
    for device, ranks in by_device.items():
        model_state, total = sum(need.model_state_bytes for need in ranks), sum(need.total_bytes for need in ranks)
        available = min(need.available_bytes for need in ranks)
        described = f"{available / _GIB:.1f} GiB are available to {len(ranks)} rank(s) on {device}"
        if model_state > available:
            reason = f"weights, gradients and optimizer state alone need {model_state / _GIB:.1f} GiB, but {described}"
            raise UserError("model", f"{model_state / _GIB:.1f} GiB", reason, _REMEDY)
        if total > available:
            addition = ranks[0].addition
            warnings.append(f"warning: about {total / _GIB:.1f} GiB are needed {addition}, but {described}")
    return warnings


def _available_on_node() -> int:
    available = psutil.virtual_memory().available
    limit = _CGROUP_LIMIT.read_text(encoding="utf-8").strip() if _CGROUP_LIMIT.is_file() else "max"
    return available if limit == "max" else min(available, int(limit))
