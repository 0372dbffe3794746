"""Pickles inside a checkpoint: read with an allow-list before megatron-core reads them without one.

A torch_dist checkpoint holds tensors, and pickles in three places: `.metadata` (which tensor lies where), `common.pt`,
and small objects between the tensors. torch unpickles the first and the last of them without restraint, so a
checkpoint from elsewhere could run any code. `refuse_unsafe_pickle` opens all three with only plain data allowed.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

from megatron_ipt.errors import UserError

_FORMAT_NAME = "metadata.json"
_METADATA_NAME = ".metadata"
_COMMON_NAME = "common.pt"
_DCP = "torch.distributed.checkpoint"
_ALLOWED = {
    f"{_DCP}.filesystem": {"_StorageInfo", "StorageMeta"},
    f"{_DCP}.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    f"{_DCP}.planner": {"SavePlan", "TensorWriteData", "WriteItem", "WriteItemType", "BytesIOWriteData"},
    "collections": {"OrderedDict"},
    "pathlib": {"Path", "PosixPath"},
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
}


def refuse_unsafe_pickle(folder: Path) -> set[str]:
    """Read every pickle of the checkpoint in `folder` with plain data allowed, and nothing else.

    Returns:
        The names of the tensors and objects that the checkpoint holds.

    Raises:
        UserError: one of them holds something else, or cannot be read.
    """
    _read_plain(folder / _FORMAT_NAME, json.load)
    metadata = read_metadata(folder)
    for file, offset, length in _objects(folder, metadata):
        _read_plain(file, lambda stored: torch.load(stored, weights_only=True, map_location="cpu"), offset, length)
    return set(metadata.state_dict_metadata)


def read_metadata(folder: Path) -> Metadata:
    """Read which tensor and which object of the checkpoint in `folder` lies where.

    Raises:
        UserError: this is something else, or cannot be read.
    """
    metadata: Metadata = _read_plain(folder / _METADATA_NAME, _read_metadata)
    return metadata


def _read_plain(file: Path, read: Callable[[io.BytesIO], Any], offset: int = 0, length: int = -1) -> Any:
    try:
        with file.open("rb") as handle:
            handle.seek(offset)
            return read(io.BytesIO(handle.read(length)))
    except (OSError, pickle.UnpicklingError, EOFError, RuntimeError, AttributeError, ValueError) as error:
        raise UserError(
            "checkpoint",
            file,
            f"it does not hold plain data only: {str(error).splitlines()[0]}",
            "use a checkpoint from a source you trust, or an older one of the run",
        ) from error


def _read_metadata(stored: io.BytesIO) -> Metadata:
    metadata: Metadata = _PlainUnpickler(stored).load()
    places: dict[Any, Any] = metadata.storage_data
    for place in places.values():
        if Path(place.relative_path).name != place.relative_path:
            raise pickle.UnpicklingError(f"it names {place.relative_path}, which is not a file of the checkpoint")
    return metadata


def _objects(folder: Path, metadata: Metadata) -> Iterator[tuple[Path, int, int]]:
    """The other pickles: file, offset and length in bytes."""
    common = folder / _COMMON_NAME
    if common.is_file():  # megatron-core 0.19 keeps it between the tensors
        yield common, 0, -1
    places: dict[Any, Any] = metadata.storage_data
    for index, place in places.items():
        if isinstance(metadata.state_dict_metadata[index.fqn], BytesStorageMetadata):
            yield folder / place.relative_path, place.offset, place.length


class _PlainUnpickler(pickle.Unpickler):
    """Knows the classes of torch's checkpoint metadata and no others."""

    def find_class(self, module: str, name: str) -> Any:
        """The named class.

        Raises:
            pickle.UnpicklingError: it is not one of the metadata's.
        """
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or name in _ALLOWED.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of a checkpoint")
