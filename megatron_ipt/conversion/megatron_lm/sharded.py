"""Weights of Megatron-LM's torch_dist checkpoints, of any layout, from and to a model in one process."""

from __future__ import annotations

import copy
import pickle
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing import ShardedObject, ShardedTensor
from megatron.core.dist_checkpointing.core import CheckpointingException
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from megatron_ipt.checkpointing.fp8_scales import EXTRA_STATE, load_with_scales
from megatron_ipt.checkpointing.pickles import read_metadata
from megatron_ipt.checkpointing.weights import ASYNC_STRATEGY, read_sharded
from megatron_ipt.conversion.core_model import CoreModel
from megatron_ipt.conversion.megatron_lm.locate import COMMON_NAME, FORMAT_NAME, TENSORS_NAME, MegatronLmCheckpoint
from megatron_ipt.conversion.megatron_lm.names import check_names, misfit
from megatron_ipt.models.gpt import unwrapped

_TRAINING = ("optimizer", "chained_", "rng_state", "rerun_state")
"""How names begin that belong to training, not to the model."""
_LAYERS = "decoder.layers."
_NUMBERED_LAYER = re.compile(r"decoder\.layers\.\d+\.")


_STATEFUL = (
    "self_attention.core_attention",
    "self_attention.linear_qkv",
    "self_attention.linear_proj",
    "self_attention.q_layernorm",
    "self_attention.k_layernorm",
    "mlp.linear_fc1",
    "mlp.linear_fc2",
)
"""Modules of a layer that have a state besides their weights in Transformer Engine, which it asks for when it loads."""


def save_sharded(core: CoreModel, folder: Path, **common: Any) -> None:
    """Write the weights of `core` into the empty `folder`, with `common` values such as `args`."""
    state = {**unwrapped(core.chunk).sharded_state_dict()}
    present = {value.unique_key for value in state.values() if isinstance(value, ShardedObject)}
    state |= {item.unique_key: item for item in _empty_states(core.config.num_layers) if item.unique_key not in present}
    dist_checkpointing.save({"model": state, **common}, str(folder), **ASYNC_STRATEGY)


def _empty_states(layers: int) -> Iterator[ShardedObject]:
    """States of Transformer Engine's modules that hold nothing, under the names that Megatron-LM gives to them."""
    yield ShardedObject(f"decoder.final_layernorm.{EXTRA_STATE}", None, (1,), (0,))
    for module in _STATEFUL:
        for layer in range(layers):
            yield ShardedObject(f"{_LAYERS}{module}.{EXTRA_STATE}", None, (layers,), (layer,))


def fill_from_sharded(core: CoreModel, checkpoint: MegatronLmCheckpoint) -> None:
    """Copy the weights in `checkpoint` to the parameters of `core`; rows of padding stay behind.

    Raises:
        UserError: tensors are missing, unknown, or of other shapes than those of the model.
    """
    metadata = read_metadata(checkpoint.folder)
    stored = {
        name: entry
        for name, entry in metadata.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata) and not name.startswith(_TRAINING)
    }
    # layers that differ, as far as the program that wrote them knew, are stored one by one
    numbered = any(map(_NUMBERED_LAYER.match, stored))
    state = unwrapped(core.chunk).sharded_state_dict(metadata={"non_homogeneous_layers": numbered})
    wanted = {name: value for name, value in state.items() if not name.endswith(EXTRA_STATE)}
    check_names({value.key for value in wanted.values()}, set(stored), checkpoint.folder)
    _check_padded(wanted, stored, checkpoint)
    with _tensors_alone(checkpoint, metadata, set(stored)) as folder:
        try:
            loaded = read_sharded({"model": wanted}, folder)
        except CheckpointingException as error:
            raise misfit(checkpoint.folder, str(error).splitlines()[0]) from error
        load_with_scales(unwrapped(core.chunk), loaded["model"])


def _check_padded(wanted: Mapping[str, Any], stored: Mapping[str, TensorStorageMetadata], checkpoint: Any) -> None:
    """Check the tensors that megatron-core takes in any shape: it fills up what is missing with zeros."""
    for value in wanted.values():
        if isinstance(value, ShardedTensor) and value.allow_shape_mismatch:
            found, needed = stored[value.key].size, value.global_shape
            if found[0] < needed[0] or tuple(found[1:]) != tuple(needed[1:]):
                raise misfit(checkpoint.folder, f"{value.key} {list(found)}, not {list(needed)}")


@contextmanager
def _tensors_alone(checkpoint: MegatronLmCheckpoint, metadata: Metadata, names: set[str]) -> Iterator[Path]:
    """A folder that shows the tensors called `names` and no objects: megatron-core would unpickle those."""
    kept = copy.copy(metadata)
    kept.state_dict_metadata = {name: metadata.state_dict_metadata[name] for name in names}
    places: dict[Any, Any] = metadata.storage_data
    kept.storage_data = {index: place for index, place in places.items() if index.fqn in names}
    with TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copyfile(checkpoint.folder / FORMAT_NAME, folder / FORMAT_NAME)
        (folder / TENSORS_NAME).write_bytes(pickle.dumps(kept))
        torch.save({}, folder / COMMON_NAME)
        for file in {place.relative_path for place in kept.storage_data.values()}:
            (folder / file).symlink_to((checkpoint.folder / file).resolve())
        yield folder
