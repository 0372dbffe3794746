"""The part of a sharded state that one rank holds, as tensors by name.

megatron-core describes a state as nested dicts and lists whose leaves are tensors with their place in the whole model.
A local checkpoint stores these tensors as they are, and is loaded only into a state with exactly the same description.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from megatron.core.dist_checkpointing.mapping import (
    LocalNonpersistentObject,
    ShardedObject,
    ShardedTensor,
    ShardedTensorFactory,
)
from megatron.core.fp8_utils import dequantize_fp8_tensor, is_float8tensor

_Described: TypeAlias = ShardedTensor | ShardedTensorFactory
_OF_OBJECT = "object|"


@dataclass(frozen=True)
class RankState:
    """A copy in host memory of the state that one rank holds."""

    tensors: Mapping[str, torch.Tensor]
    steps: list[float]
    """The step count of each optimizer."""
    description: str
    """See `describe`."""


def describe(model_state: Mapping[str, Any], optimizer: Sequence[Any]) -> str:
    """Return a hash of everything that determines which tensors a rank holds.

    It differs if another architecture, layout, rank or kind of optimizer leads to different tensors.

    Args:
        model_state: the sharded state of the model chunks; their names, types, shapes and places count. The scales of
            FP8 are left out: a new run has none before its first step.
        optimizer: the kind of the optimizer and the ranges of the parameters that it holds, as JSON values.
    """
    tensors = [
        [name, leaf.key, str(leaf.data.dtype), list(leaf.data.shape), _place(leaf)]
        for name, leaf in _leaves(model_state)
        if isinstance(leaf, _Described)
    ]
    return hashlib.sha256(json.dumps([sorted(tensors), optimizer]).encode()).hexdigest()


def copy_to_host(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return copies of the tensors in `state` in host memory, by name; weights in FP8 are converted."""
    copies = {}
    for name, leaf in _leaves(state):
        if isinstance(leaf, _Described):
            data = dequantize_fp8_tensor(leaf.data) if is_float8tensor(leaf.data) else leaf.data
            copies[name] = data.detach().to("cpu", copy=True)
        elif isinstance(leaf, ShardedObject):
            for part, tensor in leaf.data.items():
                copies[f"{_OF_OBJECT}{leaf.unique_key}|{part}"] = tensor.detach().to("cpu", copy=True)
    return copies


def objects_in(names: Mapping[str, Any] | list[str]) -> set[str]:
    """Return the unique keys of the sharded objects whose tensors are in `names`."""
    return {name.removeprefix(_OF_OBJECT).rpartition("|")[0] for name in names if name.startswith(_OF_OBJECT)}


@torch.no_grad()
def fill(state: Any, names: list[str], read: Callable[[str], torch.Tensor], path: str = "") -> Any:
    """Copy saved tensors into those of `state`, in place.

    Args:
        state: a state that has the same description as the saved one.
        names: the names of all saved tensors.
        read: returns a saved tensor.
        path: the name of `state` in the state that contains it.

    Returns:
        `state` with tensors in place of their descriptions, as megatron-core's load returns it.
    """
    if isinstance(state, dict):
        return {key: fill(value, names, read, f"{path}/{key}") for key, value in state.items()}
    if isinstance(state, list):
        return [fill(value, names, read, f"{path}/{number}") for number, value in enumerate(state)]
    if isinstance(state, _Described):
        state.data.copy_(read(path))
        return state.data
    if isinstance(state, ShardedObject):
        prefix = f"{_OF_OBJECT}{state.unique_key}|"
        return {name.removeprefix(prefix): read(name) for name in names if name.startswith(prefix)}
    return state.unwrap() if isinstance(state, LocalNonpersistentObject) else state


def _leaves(state: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values in nested dicts and lists, each with its path, which is its name."""
    if isinstance(state, dict | list):
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield from _leaves(value, f"{path}/{key}")
    else:
        yield path, state


def _place(leaf: _Described) -> list[list[int]]:
    """Return the shape of the whole tensor and the offset of this part; a factory does not know them."""
    return [list(leaf.global_shape), list(leaf.global_offset)] if isinstance(leaf, ShardedTensor) else []
