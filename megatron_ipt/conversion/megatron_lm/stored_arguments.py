"""The arguments that Megatron-LM stores in its checkpoints, read as inert data."""

from __future__ import annotations

import io
from typing import Any

from torch.distributed.checkpoint.metadata import BytesStorageMetadata

from megatron_ipt.checkpointing.pickles import read_metadata
from megatron_ipt.conversion.megatron_lm.inert import Inert, read_inert
from megatron_ipt.conversion.megatron_lm.locate import COMMON_NAME, MegatronLmCheckpoint
from megatron_ipt.errors import UserError

_COMMON_KEY = "common_state/"


def read_common(checkpoint: MegatronLmCheckpoint) -> dict[str, Any]:
    """Read what every rank has in common: `args`, `iteration`, `checkpoint_version` and so on, besides the tensors.

    Raises:
        UserError: it is missing, or cannot be read as data.
    """
    if checkpoint.format == "torch":
        state = read_inert(checkpoint.files[0], checkpoint.files[0])
    elif (common := checkpoint.folder / COMMON_NAME).is_file():
        state = read_inert(common, common)
    else:
        state = _between_tensors(checkpoint)
    if not isinstance(state, dict):
        raise _damaged(checkpoint, "it does not hold a dictionary")
    return state


def plain_arguments(common: dict[str, Any], checkpoint: MegatronLmCheckpoint) -> dict[str, Any]:
    """Megatron-LM's arguments by name, without those whose values are no plain data.

    Raises:
        UserError: there are none.
    """
    namespace = common.get("args")
    values = namespace.state if isinstance(namespace, Inert) else namespace
    if not isinstance(values, dict):
        raise _damaged(checkpoint, "it holds no arguments (args) of Megatron-LM")
    return {name: value for name, value in values.items() if _is_plain(value)}


def _between_tensors(checkpoint: MegatronLmCheckpoint) -> object:
    """Read the object that megatron-core 0.19 and later stores among the tensors instead of common.pt."""
    metadata = read_metadata(checkpoint.folder)
    stored: dict[Any, Any] = metadata.storage_data
    for index, place in stored.items():
        kind = metadata.state_dict_metadata.get(index.fqn)
        if index.fqn.startswith(_COMMON_KEY) and isinstance(kind, BytesStorageMetadata):
            file = checkpoint.folder / place.relative_path
            with file.open("rb") as handle:
                handle.seek(place.offset)
                found = read_inert(io.BytesIO(handle.read(place.length)), file)
            return found[0] if isinstance(found, list) and found else found
    raise _damaged(checkpoint, f"it has no {COMMON_NAME}, which would hold the arguments of Megatron-LM")


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _damaged(checkpoint: MegatronLmCheckpoint, reason: str) -> UserError:
    return UserError("input", checkpoint.folder, reason, "use a checkpoint that Megatron-LM saved, with all its files")
