"""Weights and optimizer state in megatron-core's sharded format, readable at any layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.utils import unwrap_model

from megatron_ipt.checkpointing.pickles import refuse_unsafe_pickle
from megatron_ipt.checkpointing.weights import ASYNC_STRATEGY
from megatron_ipt.parallel.groups import Groups

_CONFIGURED = ("max_lr", "min_lr", "start_wd", "end_wd", "wd_mult", "betas", "eps")
"""The entries of a parameter group that come from the configuration; the others are a result of training."""


def prepare_training_state(
    folder: Path, chunks: Sequence[DistributedDataParallel], optimizer: MegatronOptimizer, groups: Groups
) -> AsyncRequest:
    """Gather weights and optimizer state for the empty `folder`; a collective call.

    Returns:
        The request that writes them, for `BackgroundWriter`.
    """
    _gather_updated_weights(chunks)
    state = _sharded_state(chunks, optimizer, groups, is_loading=False)
    return dist_checkpointing.save(state, str(folder), async_sharded_save=True, **ASYNC_STRATEGY)


def load_training_state(
    folder: Path, chunks: Sequence[DistributedDataParallel], optimizer: MegatronOptimizer, groups: Groups
) -> None:
    """Load a checkpoint of any layout into the model and the optimizer; a collective call.

    Learning rates and weight decays stay those of this run's configuration: megatron-core would take the saved ones.
    """
    refuse_unsafe_pickle(folder)
    state = dist_checkpointing.load(_sharded_state(chunks, optimizer, groups, is_loading=True), str(folder))
    for name, chunk in _named(chunks):
        chunk.load_state_dict(state[name], strict=True)
    configured = [{key: group[key] for key in _CONFIGURED if key in group} for group in optimizer.param_groups]
    _load_optimizer(optimizer, state["optimizer"])
    for group, values in zip(optimizer.param_groups, configured, strict=True):
        group.update(values)


def _gather_updated_weights(chunks: Sequence[DistributedDataParallel]) -> None:
    """Give every data-parallel rank the weights that the last optimizer step updated on the others.

    With `overlap_param_gather` megatron-core leaves this all-gather to the next forward pass, so that until then each
    rank holds new values for its own shard of the parameters alone. The gathers that a forward pass would start are
    then already done, and it starts none.
    """
    for chunk in chunks:
        if chunk.ddp_config.overlap_param_gather:
            chunk.start_param_sync(force_sync=True)


def _sharded_state(
    chunks: Sequence[DistributedDataParallel], optimizer: MegatronOptimizer, groups: Groups, *, is_loading: bool
) -> dict[str, Any]:
    metadata = {
        "dp_cp_group": groups.data_parallel_with_context,
        "distrib_optim_sharding_type": "fully_reshardable",
        "singleton_local_shards": False,
        "chained_optim_avoid_prefix": True,
    }
    for adam in _torch_adams(optimizer):
        _fill_adam_state(adam)
    model = {name: chunk.sharded_state_dict(metadata=metadata) for name, chunk in _named(chunks)}
    sharded_optimizer = optimizer.sharded_state_dict(dict(model), is_loading=is_loading, metadata=metadata)
    return {**model, "optimizer": sharded_optimizer}


def _load_optimizer(optimizer: MegatronOptimizer, state: dict[str, Any]) -> None:
    """Load the counters, then the moments of the distributed optimizer.

    In one call megatron-core (0.16 to 0.19) would look for torch Adam's counter among the moments, which do not hold
    it, and would give all parameters the same counter object, so that each step would be counted once per parameter.
    """
    moments = state.pop("param_state", None)
    optimizer.load_state_dict(state)
    adam_states = [adam_state for adam in _torch_adams(optimizer) for adam_state in adam.state.values()]
    steps = [adam_state.pop("step").clone() for adam_state in adam_states]
    if moments is not None:
        for part in _parts(optimizer):
            part.load_parameter_state_from_fully_reshardable(moments)
    for adam_state, step in zip(adam_states, steps, strict=True):
        adam_state["step"] = step


def _named(chunks: Sequence[DistributedDataParallel]) -> list[tuple[str, Any]]:
    models = unwrap_model(list(chunks))
    return (
        [("model", models[0])]
        if len(models) == 1
        else [(f"model{vp_stage}", model) for vp_stage, model in enumerate(models)]
    )


def _torch_adams(optimizer: MegatronOptimizer) -> list[torch.optim.Optimizer]:
    """The torch optimizers inside; none where Transformer Engine or apex brings its own Adam."""
    inner = [part.optimizer for part in _parts(optimizer)]
    return [adam for adam in inner if isinstance(adam, (torch.optim.Adam, torch.optim.AdamW))]


def _parts(optimizer: MegatronOptimizer) -> list[Any]:
    return getattr(optimizer, "chained_optimizers", [optimizer])


def _fill_adam_state(adam: torch.optim.Optimizer) -> None:
    """Create the moments and counter of torch's Adam before the first step: the sharded layout is derived from them."""
    for group in adam.param_groups:
        for parameter in group["params"]:
            state = adam.state[parameter]
            if not state:
                state["step"] = torch.tensor(0.0)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
