"""Checkpoints of Megatron-LM on disk: FOLDER/latest_checkpointed_iteration.txt and FOLDER/iter_0000100 (or release).

Does not import torch.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megatron_ipt.checkpointing.layout import RUN_CONFIG_NAME
from megatron_ipt.errors import UserError

FORMAT_NAME, TENSORS_NAME, COMMON_NAME = "metadata.json", ".metadata", "common.pt"
POINTER_NAME = "latest_checkpointed_iteration.txt"
_SHARD_NAME = "model_optim_rng.pt"
_SHARD_FOLDER = re.compile(r"mp_rank_(\d{2,})(?:_(\d{3,}))?(?:_(\d{3,}))?")

Format = Literal["torch_dist", "torch", "other"]


@dataclass(frozen=True)
class MegatronLmCheckpoint:
    """One checkpoint.

    Attributes:
        folder: iter_* or release.
        format: the value of Megatron-LM's --ckpt-format; `other` for formats that are not read.
    """

    folder: Path
    format: Format

    @property
    def files(self) -> list[Path]:
        """Every file that is read of it."""
        if self.format == "torch":
            return sorted(self.folder.glob(f"mp_rank_*/{_SHARD_NAME}"))
        names = (FORMAT_NAME, TENSORS_NAME, COMMON_NAME)
        return [file for name in names if (file := self.folder / name).is_file()] + sorted(self.folder.glob("*.distcp"))


def find_megatron_lm(path: Path) -> MegatronLmCheckpoint | None:
    """The checkpoint that `path` means: itself, the one its pointer names, or the newest; None if there is none."""
    pointer = path / POINTER_NAME
    latest = pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else ""
    named = path / (f"iter_{int(latest):07d}" if latest.isdecimal() else latest)
    for folder in (path, *([named] if latest else []), *sorted(path.glob("iter_*"), reverse=True), path / "release"):
        if folder.is_dir() and not (folder / RUN_CONFIG_NAME).is_file() and (found := _format(folder)) is not None:
            return MegatronLmCheckpoint(folder, found)
    return None


def require_megatron_lm(path: Path) -> MegatronLmCheckpoint:
    """Find the checkpoint that `path` means, in a format that is read.

    Raises:
        UserError: there is none.
    """
    found = find_megatron_lm(path)
    if found is None:
        remedy = "name a folder that Megatron-LM's --save wrote, or one of its iter_* folders"
        raise UserError("input", path, "no checkpoint of Megatron-LM there", remedy)
    if found.format == "other":
        reason = f"{found.folder} is neither in the torch_dist nor in the torch format"
        raise UserError("input", path, reason, "convert it with Megatron-LM's --ckpt-convert-format torch_dist")
    return found


def shards(checkpoint: MegatronLmCheckpoint) -> dict[tuple[int, int], Path]:
    """The files of a checkpoint in the legacy format by tensor and pipeline rank.

    Raises:
        ValueError: there are expert ranks.
    """
    found = {}
    for file in checkpoint.files:
        match = _SHARD_FOLDER.fullmatch(file.parent.name)
        if match is None or match[3] is not None:
            raise ValueError(f"{file.parent.name} is no tensor and pipeline rank; experts are not supported")
        found[int(match[1]), int(match[2] or 0)] = file
    return found


def _format(folder: Path) -> Format | None:
    if any(folder.glob(f"mp_rank_*/{_SHARD_NAME}")):
        return "torch"
    if (folder / FORMAT_NAME).is_file():
        try:
            backend = json.loads((folder / FORMAT_NAME).read_text(encoding="utf-8"))["sharded_backend"]
        except (ValueError, LookupError, TypeError):
            backend = None
        return "torch_dist" if backend == "torch_dist" else "other"
    return "other" if (folder / TENSORS_NAME).is_file() else None
