"""The weights of a model, without optimizer state, in megatron-core's sharded format."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
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


def save_weights(chunks: Sequence[torch.nn.Module], folder: Path) -> None:
    """Write the weights of this rank's `chunks` into the empty `folder`; a collective call."""
    dist_checkpointing.save(_sharded_weights(chunks), str(folder), **ASYNC_STRATEGY)


def prepare_weights(chunk: torch.nn.Module, folder: Path, read: ReadPart) -> AsyncRequest:
    """Prepare a save of `chunk`, a model on the meta device, without holding all its weights; a collective call.

    `read` is called for each tensor when it is written.

    Returns:
        The request for `BackgroundWriter`, which writes the same bytes as `save_weights` would.
    """
    state = _sharded_weights([chunk])["model"]
    locations = {
        (piece.key, tuple(piece.global_offset)): (name, piece.data.storage_offset(), piece.data.numel())
        for name, entry in state.items()
        for piece in _pieces(entry)
    }
    request = dist_checkpointing.save({"model": state}, str(folder), async_sharded_save=True, **ASYNC_STRATEGY)
    rank, files, results = request.async_fn_args
    lazy = [(file, key, (objects, _LazyTensors(tensors, locations, read))) for file, key, (objects, tensors) in files]
    return request._replace(async_fn_args=(rank, lazy, results), preload_fn=None)


class StoredWeights:
    """The weights in a checkpoint, which can be read one parameter at a time."""

    def __init__(self, chunk: torch.nn.Module, folder: Path) -> None:
        """Prepare to read the parameters of `chunk`, a model on the meta device, from `folder`.

        Raises:
            UserError: the checkpoint has a pickle with other than plain data.
        """
        refuse_unsafe_pickle(folder)
        self._folder = folder
        self._state = _sharded_weights([chunk])["model"]
        self._model = unwrapped(chunk)

    def read(self, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """Read parameters, in the dtype of the model; a collective call.

        Raises:
            UserError: a tensor has a different form, or is damaged.
            OSError: the file system failed.
        """
        parameters = {name: torch.empty_like(self._model.get_parameter(name), device="cpu") for name in names}
        wanted = {
            name: [_of_all_layers(piece) for piece in _pieces(replace(self._state[name], data=value))]
            for name, value in parameters.items()
        }
        read_sharded(wanted, self._folder, whole=False)
        return parameters


def load_weights(chunks: Sequence[torch.nn.Module], folder: Path) -> None:
    """Load `folder`, saved at any layout, into `chunks`; values are converted to the dtype of the parameters.

    Raises:
        UserError: the checkpoint has a pickle with other than plain data.
    """
    refuse_unsafe_pickle(folder)
    state = read_sharded(_sharded_weights(chunks), folder)
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


def _sharded_weights(chunks: Sequence[torch.nn.Module]) -> dict[str, Any]:
    """Return the sharded tensors by chunk, without the FP8 scales, which belong to a run and not to a model."""
    return {
        name: {key: value for key, value in chunk.sharded_state_dict().items() if not key.endswith(EXTRA_STATE)}
        for name, chunk in _named(chunks).items()
    }


def _pieces(entry: ShardedTensor | ShardedTensorFactory) -> list[ShardedTensor]:
    """Return the tensors as which one parameter is saved; they share its memory."""
    return [entry] if isinstance(entry, ShardedTensor) else list(nested_values(entry.build()))


def _of_all_layers(piece: ShardedTensor) -> ShardedTensor:
    """Describe `piece` as part of a tensor with an axis of layers, so that one layer can be read alone."""
    shape = (1,) * piece.prepend_axis_num + tuple(piece.local_shape)
    return replace(piece, data=piece.data.view(shape), local_shape=shape, prepend_axis_num=0)


class _LazyTensors:
    """The items of a file to write, for megatron-core's writer; one tensor at a time is in memory."""

    def __init__(
        self,
        items: Sequence[tuple[Any, torch.Tensor]],
        locations: Mapping[tuple[str, tuple[int, ...]], tuple[str, int, int]],
        read: ReadPart,
    ) -> None:
        self._items, self._locations, self._read = [item for item, _ in items], locations, read

    def __iter__(self) -> Iterator[tuple[Any, torch.Tensor]]:
        torch.set_num_threads(1)  # OpenMP's threads do not exist in a forked process, and it would wait for them
        for item in self._items:
            yield item, self._tensor(item)

    def _tensor(self, item: Any) -> torch.Tensor:
        chunk = item.tensor_data.chunk
        tensor = self._read(*self._locations[item.index.fqn, tuple(chunk.offsets)]).view(chunk.sizes)
        shares = tensor.untyped_storage().nbytes() != tensor.nbytes
        return tensor.clone() if shares else tensor  # torch.save writes the whole storage of a view


def _named(chunks: Sequence[torch.nn.Module]) -> dict[str, Any]:
    models = [unwrapped(chunk) for chunk in chunks]
    return (
        {"model": models[0]}
        if len(models) == 1
        else {f"model{vp_stage}": model for vp_stage, model in enumerate(models)}
    )
