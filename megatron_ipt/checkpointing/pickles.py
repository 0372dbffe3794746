"""Pickles in a checkpoint: checked with an allow-list before megatron-core reads them without one.

A torch_dist checkpoint holds tensors, and pickles in three places: `.metadata` (the location of each tensor),
`common.pt`, and small objects between the tensors. torch unpickles the first and the last without restriction, so a
checkpoint from an untrusted source could execute code. `refuse_unsafe_pickle` reads all three and allows only plain
data.
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
METADATA_NAME = ".metadata"
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
    """Check that every pickle of the checkpoint in `folder` holds plain data.

    Returns:
        The names of the tensors and objects in the checkpoint.

    Raises:
        UserError: a pickle holds other objects, or cannot be read.
    """
    _read_plain(folder / _FORMAT_NAME, json.load)
    metadata = read_metadata(folder)
    for file, offset, length in _objects(folder, metadata):
        _read_plain(file, lambda stored: torch.load(stored, weights_only=True, map_location="cpu"), offset, length)
    return set(metadata.state_dict_metadata)


def read_metadata(folder: Path) -> Metadata:
    """Read the locations of the tensors and objects of the checkpoint in `folder`.

    Raises:
        UserError: the metadata holds other objects, or cannot be read.
    """
    metadata: Metadata = _read_plain(folder / METADATA_NAME, _read_metadata)
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
            f"it does not contain only plain data: {str(error).splitlines()[0]}",
            "use a checkpoint from a source you trust, or an older one of the run",
        ) from error


def _read_metadata(stored: io.BytesIO) -> Metadata:
    metadata: Metadata = _PlainUnpickler(stored).load()
    locations: dict[Any, Any] = metadata.storage_data
    for location in locations.values():
        if Path(location.relative_path).name != location.relative_path:
            raise pickle.UnpicklingError(f"it names {location.relative_path}, which is not a file of the checkpoint")
    return metadata


def _objects(folder: Path, metadata: Metadata) -> Iterator[tuple[Path, int, int]]:
    """Yield the file, offset and length in bytes of the other pickles."""
    common = folder / _COMMON_NAME
    if common.is_file():  # megatron-core 0.19 stores it between the tensors
        yield common, 0, -1
    locations: dict[Any, Any] = metadata.storage_data
    for index, location in locations.items():
        if isinstance(metadata.state_dict_metadata[index.fqn], BytesStorageMetadata):
            yield folder / location.relative_path, location.offset, location.length


class _PlainUnpickler(pickle.Unpickler):
    """Allows only the classes of torch's checkpoint metadata."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the class.

        Raises:
            pickle.UnpicklingError: it is not allowed.
        """
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or name in _ALLOWED.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not part of a checkpoint")
