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
from megatron.core.dist_checkpointing import ShardedObject
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from megatron_ipt.checkpointing.fp8_scales import EXTRA_STATE
from megatron_ipt.checkpointing.pickles import read_metadata
from megatron_ipt.checkpointing.weights import ReadPart, StoredWeights, pieces_of
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


def megatron_lm_state(core: CoreModel) -> dict[str, Any]:
    """Return the sharded tensors and objects of `core` as Megatron-LM's --load expects them."""
    state = {**unwrapped(core.chunk).sharded_state_dict()}
    present = {value.unique_key for value in state.values() if isinstance(value, ShardedObject)}
    return state | {
        item.unique_key: item for item in _empty_states(core.config.num_layers) if item.unique_key not in present
    }


def _empty_states(layers: int) -> Iterator[ShardedObject]:
    """States of Transformer Engine's modules that hold nothing, under the names that Megatron-LM gives to them."""
    yield ShardedObject(f"decoder.final_layernorm.{EXTRA_STATE}", None, (1,), (0,))
    for module in _STATEFUL:
        for layer in range(layers):
            yield ShardedObject(f"{_LAYERS}{module}.{EXTRA_STATE}", None, (layers,), (layer,))


@contextmanager
def stored_in_sharded(core: CoreModel, checkpoint: MegatronLmCheckpoint) -> Iterator[ReadPart]:
    """Within it, parts of the parameters of `core` can be read from `checkpoint`; rows of padding are left out.

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
    _check_shapes(wanted, stored, checkpoint)
    with _tensors_alone(checkpoint, metadata, set(stored)) as folder:
        yield StoredWeights(core.chunk, folder, wanted).read_part


def _check_shapes(wanted: Mapping[str, Any], stored: Mapping[str, TensorStorageMetadata], checkpoint: Any) -> None:
    """Check every tensor; those with a vocabulary may be padded, and megatron-core fills up what is missing."""
    for piece in (piece for value in wanted.values() for piece in pieces_of(value)):
        found, needed = tuple(stored[piece.key].size), tuple(piece.global_shape)
        is_padded = piece.allow_shape_mismatch and found[0] > needed[0] and found[1:] == needed[1:]
        if found != needed and not is_padded:
            raise misfit(checkpoint.folder, f"{piece.key} {list(found)}, not {list(needed)}")


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
