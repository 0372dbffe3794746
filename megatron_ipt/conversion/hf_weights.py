"""The safetensors files of a Hugging Face folder, read tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from megatron_ipt.conversion.hf_files import weight_files
from megatron_ipt.errors import UserError

_FORMATS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


class HfWeights:
    """The tensors of a folder by name, each mapped into memory while it is used."""

    def __init__(self, folder: Path) -> None:
        """Open the safetensors files in `folder`.

        Raises:
            UserError: there are none, or one is damaged.
        """
        self._files: dict[str, Path] = {}
        self._formats: dict[str, str] = {}
        self._shapes: dict[str, torch.Size] = {}
        for file in weight_files(folder):
            if file.suffix == ".safetensors":
                try:
                    self._describe(file)
                except (OSError, SafetensorError) as error:
                    raise UserError("input", file, f"not readable: {error}", "fetch the file again") from error

    @property
    def names(self) -> set[str]:
        """The names of all tensors."""
        return set(self._files)

    def formats(self) -> dict[str, str]:
        """The number formats of the tensors, each with the name of one that has it."""
        found = {self._formats[name]: name for name in sorted(self.names, reverse=True)}
        return {_FORMATS.get(stored, stored): name for stored, name in found.items()}

    def shape(self, name: str) -> torch.Size:
        """The shape of one tensor, which is not read for it."""
        return self._shapes[name]

    def tensor(self, name: str) -> torch.Tensor:
        """Read one tensor, as stored.

        Its file is opened for it alone: a file that stays open keeps in memory all that was ever read of it.
        """
        with _opened(self._files[name]) as handle:
            tensor: torch.Tensor = handle.get_tensor(name)
        return tensor

    def _describe(self, file: Path) -> None:
        with _opened(file) as handle:
            for name in list(handle.keys()):
                found = handle.get_slice(name)
                self._files[name] = file
                self._formats[name], self._shapes[name] = found.get_dtype(), torch.Size(found.get_shape())


def _opened(file: Path) -> Any:  # safetensors 0.8 does not annotate safe_open
    return safe_open(str(file), framework="pt")
