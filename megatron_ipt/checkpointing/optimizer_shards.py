"""Master weights and moments of a distributed optimizer, saved as parts of the model's tensors.

A data-parallel rank holds flat ranges of elements that may begin and end anywhere in a tensor. megatron-core either
saves them as they are stored in its buffers, which can be loaded at other data-parallel sizes only (`dp_reshardable`),
or gathers whole tensors on every rank (`fully_reshardable`). However, a flat range consists of a few boxes
(hyperrectangles) of the tensor, and a checkpoint is made of boxes: each rank writes and reads its own, at any layout.
The checkpoint holds the same tensors as with `fully_reshardable`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, TypeAlias

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory
from megatron.core.optimizer.cpu_offloading import HybridDeviceOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

_Described: TypeAlias = ShardedTensor | ShardedTensorFactory


class OptimizerShards:
    """This rank's shards of the state of one optimizer."""

    def __init__(self, optimizer: DistributedOptimizer, model_state: Mapping[str, Any]) -> None:
        """`model_state` is the sharded state of the model chunks, whose data are the parameters themselves."""
        self._optimizer = optimizer
        self._described = {id(base.data): base for base in nested_values(model_state) if isinstance(base, _Described)}
        self._views: dict[str, torch.Tensor] = {}
        if not optimizer.optimizer.state:
            _initialize_state(optimizer)
        self._parts = [
            (parameter, held.start, optimizer._get_main_param_and_optimizer_states(parameter))
            for parameter, held in _held_ranges(optimizer)
        ]

    def sharded(self) -> dict[str, ShardedTensor]:
        """Return views of the state, to be saved or filled by a load, under names that do not depend on their order."""
        return self._name_views(
            [
                shard
                for parameter, start, tensors in self._parts
                for name, tensor in tensors.items()
                if name != "step"  # saved once for all parameters
                for shard in self._boxes_of(parameter, f"optimizer.state.{name}.", tensor, start)
            ]
        )

    def master_weights(self) -> dict[str, ShardedTensor]:
        """Return views of the master weights, to be filled with the weights of a checkpoint."""
        return self._name_views(
            [
                shard
                for parameter, start, tensors in self._parts
                for shard in self._boxes_of(parameter, "", tensors["param"], start)
            ]
        )

    def fill(self, loaded: Mapping[str, torch.Tensor]) -> None:
        """Copy the tensors that a load returned for the views, unless they were loaded in place."""
        for name, view in self._views.items():
            if loaded[name].data_ptr() != view.data_ptr():
                view.copy_(loaded[name].view(view.shape))
        self._update_optimizer()

    def _update_optimizer(self) -> None:
        """Write the state back to an optimizer that returns fp32 copies, or that keeps part of it on the host."""
        if not self._optimizer.config.use_precision_aware_optimizer_no_fp8_or_ds_fp8:
            return
        if isinstance(self._optimizer.optimizer, HybridDeviceOptimizer):
            self._optimizer.optimizer._sync_hdo_state_to_sub_optimizers()
            return
        for parameter, _, tensors in self._parts:
            self._optimizer._set_main_param_and_optimizer_states(parameter, tensors)

    def _name_views(self, shards: Sequence[ShardedTensor]) -> dict[str, ShardedTensor]:
        by_name = {f"{shard.key}@{','.join(map(str, shard.global_offset))}": shard for shard in shards}
        assert len(by_name) == len(shards)
        self._views = {name: shard.data for name, shard in by_name.items()}
        return by_name

    def _boxes_of(
        self, parameter: torch.Tensor, prefix: str, tensor: torch.Tensor, start: int
    ) -> Iterator[ShardedTensor]:
        """Yield `tensor` (1-D), the elements of `parameter` from `start` on, as boxes of the saved tensors."""
        for piece, first in _pieces(self._described[id(parameter)]):
            position = max(start, first)
            stop = min(start + tensor.numel(), first + prod(piece.local_shape))
            leading = (1,) * piece.prepend_axis_num
            for offsets, sizes in boxes(piece.local_shape, position - first, stop - first):
                values = tensor.detach()[position - start : position - start + prod(sizes)].view(leading + sizes)
                position += prod(sizes)
                yield ShardedTensor(
                    key=f"{prefix}{piece.key}",
                    data=values,
                    dtype=values.dtype,
                    local_shape=leading + sizes,
                    global_shape=piece.global_shape,
                    global_offset=tuple(map(sum, zip(piece.global_offset, (0,) * len(leading) + offsets, strict=True))),
                    axis_fragmentations=None,
                    replica_id=(*piece.replica_id[:2], self._optimizer.distributed_optimizer_instance_id),
                    allow_shape_mismatch=piece.allow_shape_mismatch,
                )


def shard_ranges(optimizer: DistributedOptimizer, model_state: Mapping[str, Any]) -> list[list[Any]]:
    """Return the range of each parameter whose state this rank holds: name, start and end (exclusive), in elements.

    Unlike `OptimizerShards`, this does not initialize the state.
    """
    keys = {id(base.data): base.key for base in nested_values(model_state) if isinstance(base, _Described)}
    return [[keys[id(parameter)], held.start, held.end] for parameter, held in _held_ranges(optimizer)]


def _held_ranges(optimizer: DistributedOptimizer) -> Iterator[tuple[torch.Tensor, Any]]:
    """Yield each parameter whose state this rank holds, and its range of elements as megatron-core describes it."""
    for by_dtype in optimizer.gbuf_ranges:
        for buckets in by_dtype.values():
            for bucket in buckets:
                for parameter, ranges in bucket["param_map"].items():
                    yield parameter, ranges["param"]


def _initialize_state(optimizer: DistributedOptimizer) -> None:
    """Create the state that the first step would create; megatron-core only allocates it, without initializing it."""
    optimizer.load_state_dict(optimizer.state_dict())
    inner = optimizer.optimizer
    for parameter, state in inner.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            state[name].zero_()
        if "master_param" in state and not isinstance(inner, HybridDeviceOptimizer):
            inner.set_scaled_state(parameter, "master_param", parameter.detach().float())


def boxes(shape: Sequence[int], start: int, stop: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Split the flat range from `start` to `stop` of a row-major tensor of `shape` into boxes, in order.

    Yields:
        The offsets and the sizes of a box, one value per dimension.
    """
    if start >= stop:
        return
    if len(shape) == 1:
        yield (start,), (stop - start,)
        return
    row = prod(shape[1:])
    while start < stop:
        index, within = divmod(start, row)
        if within or stop - start < row:  # the end of a row, or its beginning
            end = min(stop - index * row, row)
            for offsets, sizes in boxes(shape[1:], within, end):
                yield (index, *offsets), (1, *sizes)
            start = index * row + end
        else:
            rows = (stop - start) // row
            yield (index, *(0 for _ in shape[1:])), (rows, *shape[1:])
            start += rows * row


def _pieces(described: _Described) -> list[tuple[ShardedTensor, int]]:
    """Return the tensors as which a parameter is saved, each with the index of its first element in the parameter."""
    if isinstance(described, ShardedTensor):
        return [(described, 0)]
    # the offsets of the pieces follow from running the factory on a tensor without storage
    outline = torch.empty(described.data.shape, device="meta")
    pieces = list(nested_values(replace(described, data=outline).build()))
    assert all(piece.data.is_contiguous() for piece in pieces)
    return [(piece, piece.data.storage_offset()) for piece in pieces]
