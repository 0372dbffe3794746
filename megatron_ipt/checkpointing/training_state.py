"""Weights and optimizer state in megatron-core's sharded format, which can be loaded at any layout."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import is_main_replica
from megatron.core.dist_checkpointing.serialization import (
    get_default_load_sharded_strategy,
    get_default_save_sharded_strategy,
)
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.fully_parallel import (
    FullyParallelLoadStrategyWrapper,
    FullyParallelSaveStrategyWrapper,
)
from megatron.core.distributed import DistributedDataParallel
from megatron.core.fp8_utils import dequantize_fp8_tensor, is_float8tensor
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.cpu_offloading import HybridDeviceOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.utils import unwrap_model

from megatron_ipt.checkpointing.fp8_scales import load_with_scales, with_plain_scales
from megatron_ipt.checkpointing.optimizer_shards import OptimizerShards, shard_ranges
from megatron_ipt.checkpointing.pickles import refuse_unsafe_pickle
from megatron_ipt.checkpointing.rank_state import RankState, copy_to_host, describe, fill, objects_in
from megatron_ipt.checkpointing.weights import ASYNC_STRATEGY, read_sharded
from megatron_ipt.errors import UserError
from megatron_ipt.parallel.groups import Groups

_SHARDS = "shards"
_OPTIMIZER = ".optimizer."  # in the names of its tensors, at the beginning or after the number of a chained optimizer
_COMMON_STEP = "common_step"  # megatron-core's name for the step count that torch's Adam keeps for each parameter
_TORCH_ADAMS = (torch.optim.Adam, torch.optim.AdamW)


def prepare_training_state(
    folder: Path, chunks: Sequence[DistributedDataParallel], optimizer: MegatronOptimizer, groups: Groups
) -> AsyncRequest:
    """Prepare the save of each rank into the empty `folder`; a collective call.

    Each rank writes the tensors that only it holds, and its share of those that data-parallel ranks hold in common.

    Args:
        folder: an empty folder, the same on all ranks.
        chunks: this rank's model chunks.
        optimizer: the optimizer of these chunks.
        groups: the process groups.

    Returns:
        The request for `BackgroundWriter`.
    """
    _gather_updated_weights(chunks)
    state, _ = _sharded_state(chunks, optimizer, groups, None)
    strategy = _ShareOfPlainTensors(get_default_save_sharded_strategy(), groups.data_parallel_with_context)
    return dist_checkpointing.save(state, str(folder), strategy, async_sharded_save=True, **ASYNC_STRATEGY)


def load_training_state(
    folder: Path, chunks: Sequence[DistributedDataParallel], optimizer: MegatronOptimizer, groups: Groups
) -> None:
    """Load a checkpoint of any layout into the model and the optimizer; a collective call.

    Of the optimizer, only the step count, the moments and the master weights are loaded: megatron-core would also
    restore learning rates, betas and the other options of the optimizer that saved them, which may be torch's or
    Transformer Engine's.

    Raises:
        UserError: the checkpoint has no optimizer state, a pickle with other than plain data, or an unreadable tensor.
    """
    stored = refuse_unsafe_pickle(folder)
    if not any(_OPTIMIZER in f".{name}" for name in stored):
        reason = "it holds only weights, as checkpoints written by a conversion do"
        raise UserError(
            "checkpoint", folder, reason, "use a checkpoint of a training run, or set checkpoint.load_optimizer=false"
        )
    wanted, shards = _sharded_state(chunks, optimizer, groups, stored)
    state = _read_share(wanted, folder, groups)
    for name, chunk in _named(chunks):
        load_with_scales(chunk, state[name])
    _load_optimizer(optimizer, state["optimizer"], shards)


def load_master_weights(
    folder: Path, chunks: Sequence[DistributedDataParallel], optimizer: MegatronOptimizer, groups: Groups
) -> None:
    """Load the distributed optimizer's master weights from `folder`; a collective call, after `load_weights`.

    The checkpoint may hold the weights in a higher precision than the model.
    """
    (part,) = _parts(optimizer)
    model = {name: chunk.sharded_state_dict() for name, chunk in _named(chunks)}
    shards = OptimizerShards(part, model)
    wanted = {_SHARDS: shards.master_weights()}
    shards.fill(_read_share(wanted, folder, groups)[_SHARDS])


def copy_training_state(
    chunks: Sequence[DistributedDataParallel], optimizer: MegatronOptimizer, groups: Groups
) -> RankState:
    """Copy this rank's state to host memory, for a local checkpoint; a collective call."""
    _gather_updated_weights(chunks)
    state, _ = _sharded_state(chunks, optimizer, groups, None)
    description = _describe({name: state[name] for name, _ in _named(chunks)}, optimizer)
    tensors = copy_to_host(state)
    steps = [_take_step(inner_state) for inner_state in _inner_states(optimizer, state["optimizer"])]
    return RankState(tensors, steps, description)


def describe_training_state(
    chunks: Sequence[DistributedDataParallel], optimizer: MegatronOptimizer, groups: Groups
) -> str:
    """Return the description of the state that `load_copied_state` can load.

    The optimizer is not initialized: one that creates its master weights at its first step must not create them before
    the weights are loaded.
    """
    return _describe(_model_state(chunks, groups, set()), optimizer)


def load_copied_state(
    names: list[str],
    read: Callable[[str], torch.Tensor],
    steps: Sequence[float],
    chunks: Sequence[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    groups: Groups,
) -> None:
    """Load a copy whose description is that of this rank's state; a collective call.

    As with other checkpoints, only moments, master weights and step counts of the optimizer are loaded.

    Args:
        names: the names of all tensors in the copy.
        read: returns the tensor with a given name.
        steps: the step count of each optimizer.
        chunks: this rank's model chunks.
        optimizer: the optimizer of these chunks.
        groups: the process groups.
    """
    wanted, shards = _sharded_state(chunks, optimizer, groups, objects_in(names))
    state = fill(wanted, names, read)
    for name, chunk in _named(chunks):
        load_with_scales(chunk, state[name])
    _load_optimizer(optimizer, state["optimizer"], shards, steps)


def _read_share(wanted: dict[str, Any], folder: Path, groups: Groups) -> dict[str, Any]:
    """Read `wanted`; data-parallel ranks read shares of the tensors that they have in common, and exchange them."""
    strategy = FullyParallelLoadStrategyWrapper(
        get_default_load_sharded_strategy(str(folder)), groups.data_parallel_with_context
    )
    return read_sharded(wanted, folder, strategy)


class _ShareOfPlainTensors(FullyParallelSaveStrategyWrapper):
    """Assigns each rank its share, and converts FP8 weights in it so that machines without Transformer Engine can read
    them.

    Only the share is converted: converting all weights would need as much memory as FP8 saves.
    """

    def apply_saving_parallelization(self, sharded_state_dict: dict[str, Any]) -> None:
        """Decide which tensors this rank writes."""
        super().apply_saving_parallelization(sharded_state_dict)
        for tensor in nested_values(sharded_state_dict):
            if is_main_replica(tensor.replica_id) and is_float8tensor(tensor.data):
                tensor.data = dequantize_fp8_tensor(tensor.data)


def _gather_updated_weights(chunks: Sequence[DistributedDataParallel]) -> None:
    """Give every data-parallel rank the weights that the last optimizer step updated on other ranks.

    With `overlap_param_gather`, megatron-core defers this all-gather to the next forward pass; until then, each rank
    has new values only for its own shard of the parameters. That forward pass then starts no further all-gathers.
    """
    for chunk in chunks:
        if chunk.ddp_config.overlap_param_gather:
            chunk.start_param_sync(force_sync=True)


def _describe(model_state: Mapping[str, Any], optimizer: MegatronOptimizer) -> str:
    parts = _parts(optimizer)
    kinds = [
        [
            *(type(each).__name__ for each in (part, part.optimizer)),
            *(part.config.optimizer, part.config.optimizer_cpu_offload),
            part.config.use_precision_aware_optimizer_no_fp8_or_ds_fp8,
            # parameters are numbered by their order in the groups
            [[list(parameter.shape) for parameter in group["params"]] for group in part.optimizer.param_groups],
        ]
        for part in parts
    ]
    ranges = [shard_ranges(part, model_state) for part in parts if isinstance(part, DistributedOptimizer)]
    return describe(model_state, [kinds, ranges])


def _model_state(
    chunks: Sequence[DistributedDataParallel], groups: Groups, stored: Collection[str] | None
) -> dict[str, Any]:
    """Return the sharded state of the model chunks; for `stored` see `_sharded_state`."""
    metadata = _metadata(groups)
    return {
        name: with_plain_scales(chunk, chunk.sharded_state_dict(metadata=metadata), stored)
        for name, chunk in _named(chunks)
    }


def _metadata(groups: Groups) -> dict[str, Any]:
    return {
        "dp_cp_group": groups.data_parallel_with_context,
        "singleton_local_shards": False,
        "chained_optim_avoid_prefix": True,
    }


def _sharded_state(
    chunks: Sequence[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    groups: Groups,
    stored: Collection[str] | None,
) -> tuple[dict[str, Any], OptimizerShards | None]:
    """Return this rank's sharded state, to save or to load, and the shards of a distributed optimizer.

    `stored` are the names in the checkpoint to load; None for saving.
    """
    for adam in _torch_adams(optimizer):
        _fill_adam_state(adam)
    model = _model_state(chunks, groups, stored)
    part = _parts(optimizer)[0]
    if isinstance(part, DistributedOptimizer):
        shards = OptimizerShards(part, model)
        return {**model, "optimizer": {**part.state_dict(), _SHARDS: shards.sharded()}}, shards
    plain = optimizer.sharded_state_dict(dict(model), is_loading=stored is not None, metadata=_metadata(groups))
    return {**model, "optimizer": plain}, None


def _load_optimizer(
    optimizer: MegatronOptimizer,
    state: dict[Any, Any],
    shards: OptimizerShards | None,
    steps: Sequence[float] | None = None,
) -> None:
    """Restore moments, master weights and the step counts, which are those in `state` unless `steps` gives them.

    torch's Adam keeps the step count for each parameter, Transformer Engine's for each parameter group.
    """
    parts, inner_states = _parts(optimizer), _inner_states(optimizer, state)
    found = [_take_step(inner_state) for inner_state in inner_states]
    steps = found if steps is None else steps
    if shards is not None:
        shards.fill(state[_SHARDS])
    else:
        own = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        for part, inner_state, step in zip(parts, inner_states, steps, strict=True):
            if isinstance(part.optimizer, _TORCH_ADAMS):
                inner_state["state"][_COMMON_STEP] = torch.tensor(step)
        optimizer.load_state_dict(state)
        for group, values in zip(optimizer.param_groups, own, strict=True):
            parameters = group["params"]
            group.clear()
            group.update(values, params=parameters)
    for part, step in zip(parts, steps, strict=True):
        _set_step(part.optimizer, step)


def _inner_states(optimizer: MegatronOptimizer, state: dict[Any, Any]) -> list[dict[str, Any]]:
    """Return the state of the inner optimizer of each part."""
    parts = _parts(optimizer)
    saved = [state] if len(parts) == 1 else [state[i] for i in range(len(parts))]
    return [part_state.get("optimizer", part_state) for part_state in saved]


def _take_step(saved: dict[str, Any]) -> float:
    """Remove and return the step count in the saved state of an inner optimizer."""
    in_groups = [group["step"] for group in saved["param_groups"] if group.get("step") is not None]
    common = saved.get("state", {}).pop(_COMMON_STEP, None)
    return float(common if common is not None else max(in_groups, default=0))


def _set_step(inner: torch.optim.Optimizer, step: float) -> None:
    if isinstance(inner, HybridDeviceOptimizer):
        for part in inner.sub_optimizers:
            _set_step(part, step)
    if isinstance(inner, _TORCH_ADAMS):
        for state in inner.state.values():
            state["step"] = torch.tensor(step)
    elif "betas" in inner.defaults:  # Transformer Engine's or apex's Adam
        for group in inner.param_groups:
            group["step"] = int(step)


def _named(chunks: Sequence[DistributedDataParallel]) -> list[tuple[str, Any]]:
    models = unwrap_model(list(chunks))
    return (
        [("model", models[0])]
        if len(models) == 1
        else [(f"model{vp_stage}", model) for vp_stage, model in enumerate(models)]
    )


def _torch_adams(optimizer: MegatronOptimizer) -> list[torch.optim.Optimizer]:
    """Return the inner torch optimizers; none if Transformer Engine's or apex's Adam is used."""
    inner = [part.optimizer for part in _parts(optimizer)]
    return [adam for adam in inner if isinstance(adam, _TORCH_ADAMS)]


def _parts(optimizer: MegatronOptimizer) -> list[Any]:
    return getattr(optimizer, "chained_optimizers", [optimizer])


def _fill_adam_state(adam: torch.optim.Optimizer) -> None:
    """Create the moments and step count of torch's Adam before the first step: the sharded state requires them."""
    for group in adam.param_groups:
        for parameter in group["params"]:
            state = adam.state[parameter]
            if not state:
                state["step"] = torch.tensor(0.0)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
