"""The weights of a model, without optimizer state, in megatron-core's sharded format."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor, ShardedTensorFactory
from torch.distributed.checkpoint.api import CheckpointException

from megatron_ipt.checkpointing.fp8_scales import EXTRA_STATE, load_with_scales
from megatron_ipt.checkpointing.pickles import refuse_unsafe_pickle
from megatron_ipt.errors import UserError
from megatron_ipt.models.gpt import unwrapped

# from 0.17 on, megatron-core's default for asynchronous saves needs another package
ASYNC_STRATEGY: dict[str, Any] = (
    {"async_strategy": "mcore"} if "async_strategy" in inspect.signature(dist_checkpointing.save).parameters else {}
)

ReadParameters = Callable[[Sequence[str]], dict[str, torch.Tensor]]
"""Returns parameters of a model by name."""
ReadPart = Callable[[str, int, int], torch.Tensor]
"""Returns `count` values of a parameter from index `first` in row-major order; arguments: name, first, count."""
_READING = Lock()


def save_weights(chunks: Sequence[torch.nn.Module], folder: Path) -> None:
    """Write the weights of this rank's `chunks` into the empty `folder`; a collective call."""
    dist_checkpointing.save(_sharded_chunks(chunks), str(folder), **ASYNC_STRATEGY)


class StoredWeights:
    """The weights in a checkpoint, which can be read one parameter, or one part of a parameter, at a time."""

    def __init__(self, chunk: torch.nn.Module, folder: Path, state: Mapping[str, Any] | None = None) -> None:
        """Prepare to read the parameters of `chunk`, a model on the meta device, from `folder`.

        Args:
            chunk: the model.
            folder: the checkpoint.
            state: the sharded tensors of the parameters as they are stored; by default, as this trainer stores them.

        Raises:
            UserError: the checkpoint has a pickle with other than plain data.
        """
        refuse_unsafe_pickle(folder)
        self._folder = folder
        self._state = sharded_weights(chunk) if state is None else state
        self._model = unwrapped(chunk)

    def read(self, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """Read parameters, in the dtype of the model; a collective call.

        Raises:
            UserError: a tensor has a different form, or is damaged.
            OSError: the file system failed.
        """
        parameters = {name: torch.empty_like(self._model.get_parameter(name), device="cpu") for name in names}
        self._read({name: pieces_of(replace(self._state[name], data=value)) for name, value in parameters.items()})
        return parameters

    def read_part(self, name: str, first: int, count: int) -> torch.Tensor:
        """Read a part of a parameter that is stored as one tensor [count]; threads may call this.

        Raises:
            UserError: the tensor has a different form, or is damaged.
            OSError: the file system failed.
        """
        [piece] = [piece for piece in pieces_of(self._state[name]) if piece.data.storage_offset() == first]
        value = torch.empty_like(piece.data, device="cpu")
        assert value.numel() == count
        self._read({name: [replace(piece, data=value)]})
        return value.view(-1)

    def _read(self, pieces: Mapping[str, Sequence[ShardedTensor]]) -> None:
        wanted = {name: [_of_all_layers(piece) for piece in parts] for name, parts in pieces.items()}
        with _READING:  # a collective call
            read_sharded(wanted, self._folder, whole=False)


def load_weights(chunks: Sequence[torch.nn.Module], folder: Path) -> None:
    """Load `folder`, saved at any layout, into `chunks`; values are converted to the dtype of the parameters.

    Raises:
        UserError: the checkpoint has a pickle with other than plain data.
    """
    refuse_unsafe_pickle(folder)
    state = read_sharded(_sharded_chunks(chunks), folder)
    for name, chunk in _named(chunks).items():
        load_with_scales(chunk, state[name])


def read_sharded(wanted: dict[str, Any], folder: Path, strategy: Any = None, *, whole: bool = True) -> dict[str, Any]:
    """Read `wanted` from `folder` with megatron-core's load `strategy`; a collective call.

    Args:
        wanted: sharded tensors by name, nested.
        folder: the checkpoint.
        strategy: None for megatron-core's default.
        whole: require that the ranks together read all parts of each tensor.

    Raises:
        UserError: a tensor has a different form, or is damaged.
        OSError: the file system failed.
    """
    try:
        return dist_checkpointing.load(wanted, str(folder), strategy, validate_access_integrity=whole)
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        if isinstance(cause, OSError):
            raise cause from error
        reason = f"a tensor cannot be read: {str(cause).splitlines()[0]}"
        remedy = "use a checkpoint from a source you trust, or an older one of the run"
        raise UserError("checkpoint", folder, reason, remedy) from error


def sharded_weights(chunk: torch.nn.Module) -> dict[str, Any]:
    """Return the sharded tensors of a chunk, without the FP8 scales, which belong to a run and not to a model."""
    state = unwrapped(chunk).sharded_state_dict()
    return {key: value for key, value in state.items() if not key.endswith(EXTRA_STATE)}


def pieces_of(entry: ShardedTensor | ShardedTensorFactory | ShardedObject) -> list[ShardedTensor]:
    """Return the tensors as which one parameter is saved; they share its memory. An object has none."""
    if isinstance(entry, ShardedTensorFactory):
        return list(nested_values(entry.build()))
    return [entry] if isinstance(entry, ShardedTensor) else []


def _sharded_chunks(chunks: Sequence[torch.nn.Module]) -> dict[str, Any]:
    return {name: sharded_weights(chunk) for name, chunk in _named(chunks).items()}


def _of_all_layers(piece: ShardedTensor) -> ShardedTensor:
    """Describe `piece` as part of a tensor with an axis of layers, so that one layer can be read alone."""
    shape = (1,) * piece.prepend_axis_num + tuple(piece.local_shape)
    return replace(piece, data=piece.data.view(shape), local_shape=shape, prepend_axis_num=0)


def _named(chunks: Sequence[torch.nn.Module]) -> dict[str, Any]:
    models = [unwrapped(chunk) for chunk in chunks]
    return (
        {"model": models[0]}
        if len(models) == 1
        else {f"model{vp_stage}": model for vp_stage, model in enumerate(models)}
    )
