"""The weights of a model alone, in megatron-core's sharded format: readable at any tensor and pipeline size."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from torch.distributed.checkpoint.api import CheckpointException

from megatron_ipt.checkpointing.fp8_scales import EXTRA_STATE, load_with_scales
from megatron_ipt.checkpointing.pickles import refuse_unsafe_pickle
from megatron_ipt.errors import UserError
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
    state = read_sharded(_sharded_weights(chunks), folder)
    for name, chunk in _named(chunks).items():
        load_with_scales(chunk, state[name])


def read_sharded(wanted: dict[str, Any], folder: Path, strategy: Any = None) -> dict[str, Any]:
    """Read `wanted` from `folder` with megatron-core's load `strategy`; a collective call.

    Raises:
        UserError: a tensor is something else, or damaged.
        OSError: the file system failed.
    """
    try:
        return dist_checkpointing.load(wanted, str(folder), strategy)
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        if isinstance(cause, OSError):
            raise cause from error
        reason = f"a tensor cannot be read: {str(cause).splitlines()[0]}"
        remedy = "use a checkpoint from a source you trust, or an older one of the run"
        raise UserError("checkpoint", folder, reason, remedy) from error


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
