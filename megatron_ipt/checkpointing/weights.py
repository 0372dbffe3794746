"""The weights of a model alone, in megatron-core's sharded format: readable at any tensor and pipeline size."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing

from megatron_ipt.checkpointing.fp8_scales import EXTRA_STATE, load_with_scales
from megatron_ipt.checkpointing.pickles import refuse_unsafe_pickle
from megatron_ipt.models.gpt import unwrapped

# from 0.17 on, megatron-core's default for asynchronous saves needs another package
ASYNC_STRATEGY: dict[str, Any] = (
    {"async_strategy": "mcore"} if "async_strategy" in inspect.signature(dist_checkpointing.save).parameters else {}
)


def save_weights(chunks: Sequence[torch.nn.Module], folder: Path) -> None:
    """Write the weights of this rank's `chunks` into the empty `folder`; a collective call."""
    dist_checkpointing.save(_sharded_weights(chunks), str(folder), **ASYNC_STRATEGY)


def load_weights(chunks: Sequence[torch.nn.Module], folder: Path) -> None:
    """Fill `chunks` from `folder`, whatever layout wrote it; values become the type of the chunk's parameters.

    Raises:
        UserError: the checkpoint holds a pickle that is not plain data.
    """
    refuse_unsafe_pickle(folder)
    state = dist_checkpointing.load(_sharded_weights(chunks), str(folder))
    for name, chunk in _named(chunks).items():
        load_with_scales(chunk, state[name])


def _sharded_weights(chunks: Sequence[torch.nn.Module]) -> dict[str, Any]:
    """Sharded tensors by chunk; without the objects that hold FP8 scales, which belong to a run and not to a model."""
    return {
        name: {key: value for key, value in chunk.sharded_state_dict().items() if not key.endswith(EXTRA_STATE)}
        for name, chunk in _named(chunks).items()
    }


def _named(chunks: Sequence[torch.nn.Module]) -> dict[str, Any]:
    models = [unwrapped(chunk) for chunk in chunks]
    return (
        {"model": models[0]}
        if len(models) == 1
        else {f"model{vp_stage}": model for vp_stage, model in enumerate(models)}
    )
