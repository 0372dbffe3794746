"""The safetensors files of a Hugging Face folder, read and written tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from megatron_ipt.conversion.hf_files import INDEX_NAME, SINGLE_NAME, weight_files
from megatron_ipt.corpus.file_modes import apply_umask
from megatron_ipt.errors import UserError

MAX_SHARD_BYTES = 5 * 10**9
_FORMATS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


class HfWeights:
    """The tensors of a folder by name, each read on demand."""

    def __init__(self, folder: Path) -> None:
        """Open the safetensors files in `folder`.

        Raises:
            UserError: there are none, or one is damaged.
        """
        self._handles: dict[str, Any] = {}  # safetensors 0.8 does not annotate safe_open
        for file in weight_files(folder):
            if file.suffix == ".safetensors":
                try:
                    handle: Any = safe_open(str(file), framework="pt")
                except (OSError, SafetensorError) as error:
                    raise UserError("input", file, f"not readable: {error}", "fetch the file again") from error
                self._handles |= dict.fromkeys(handle.keys(), handle)

    @property
    def names(self) -> set[str]:
        """The names of all tensors."""
        return set(self._handles)

    def formats(self) -> dict[str, str]:
        """The number formats of the tensors, each with the name of one that has it."""
        found = {self._handles[name].get_slice(name).get_dtype(): name for name in sorted(self.names, reverse=True)}
        return {_FORMATS.get(stored, stored): name for stored, name in found.items()}

    def shape(self, name: str) -> torch.Size:
        """The shape of one tensor, which is not read for it."""
        return torch.Size(self._handles[name].get_slice(name).get_shape())

    def tensor(self, name: str) -> torch.Tensor:
        """Read one tensor, as stored."""
        tensor: torch.Tensor = self._handles[name].get_tensor(name)
        return tensor


def write_weights(
    folder: Path, tensors: Iterable[tuple[str, torch.Tensor]], max_shard_bytes: int = MAX_SHARD_BYTES
) -> list[Path]:
    """Write tensors to model.safetensors, or to numbered files with an index if one would be too large.

    Args:
        tensors: names and tensors; those of one file are in memory at a time.
        max_shard_bytes: size of a file, unless a single tensor is larger.

    Returns:
        The files, with the index.
    """
    shards: list[list[str]] = []
    pending: dict[str, torch.Tensor] = {}
    pending_bytes = total_bytes = 0
    for name, tensor in tensors:
        if pending and pending_bytes + tensor.nbytes > max_shard_bytes:
            shards.append(_write_shard(folder, len(shards), pending))
            pending, pending_bytes = {}, 0
        pending[name] = tensor.contiguous()
        pending_bytes += tensor.nbytes
        total_bytes += tensor.nbytes
    shards.append(_write_shard(folder, len(shards), pending))
    return _name_shards(folder, shards, total_bytes)


def _write_shard(folder: Path, number: int, tensors: dict[str, torch.Tensor]) -> list[str]:
    file = _unnamed(folder, number)
    save_file(tensors, str(file), metadata={"format": "pt"})
    apply_umask(file)
    return list(tensors)


def _unnamed(folder: Path, number: int) -> Path:
    return folder / f".shard-{number}.safetensors"


def _name_shards(folder: Path, shards: list[list[str]], total_bytes: int) -> list[Path]:
    if len(shards) == 1:
        return [_unnamed(folder, 0).replace(folder / SINGLE_NAME)]
    files = [
        _unnamed(folder, number).replace(folder / f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors")
        for number in range(len(shards))
    ]
    weight_map = {name: file.name for file, names in zip(files, shards, strict=True) for name in names}
    index = folder / INDEX_NAME
    index.write_text(
        json.dumps({"metadata": {"total_size": total_bytes}, "weight_map": weight_map}, indent=2) + "\n",
        encoding="utf-8",
    )
    return [*files, index]
