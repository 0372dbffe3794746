"""Errors for folders that hold something other than the input of a conversion."""

from __future__ import annotations

import json
from pathlib import Path

from megatron_ipt.checkpointing.layout import CONTENTS_NAME, RUN_CONFIG_NAME, resolve_checkpoint
from megatron_ipt.conversion.hf_files import CONFIG_NAME
from megatron_ipt.errors import UserError

_EXPORT = "export it to a Hugging Face folder with Megatron-Bridge, and convert that with hf-to-mcore"


def no_checkpoint(path: Path) -> UserError:
    """The error that there is no checkpoint of this trainer in `path`, with what is there instead."""
    for folder in (path, *sorted(path.glob("iter_*"), reverse=True), path / "release"):
        if (folder / RUN_CONFIG_NAME).is_file() or not folder.is_dir():
            continue
        if any(folder.glob("mp_rank_*/model_optim_rng.pt")):
            reason = f"{folder} is a checkpoint of Megatron-LM in its legacy format: pickles, which are not read"
            return UserError("input", path, reason, _EXPORT)
        if (folder / ".metadata").is_file() or (folder / "metadata.json").is_file():
            reason = f"{folder} is a checkpoint of another program ({_format(folder)}): it has no {CONTENTS_NAME}"
            return UserError("input", path, reason, _EXPORT)
    if (path / CONFIG_NAME).is_file():
        return UserError("input", path, "it is a Hugging Face folder", "convert it with direction=hf-to-mcore")
    return UserError(
        "input",
        path,
        "no finished checkpoint there",
        "name a run or one of its iter_* folders; a conversion has to finish and to pass its parity check",
    )


def no_hf_folder(path: Path) -> UserError:
    """The error that `path` is no Hugging Face folder, with what it is instead."""
    if resolve_checkpoint(path) is not None:
        reason = "it holds a checkpoint of this trainer"
        return UserError("input", path, reason, "convert it with direction=mcore-to-hf")
    error = no_checkpoint(path)
    [problem] = error.problems
    if problem.remedy == _EXPORT:
        return error
    return UserError("input", path, f"it holds no {CONFIG_NAME}", "name a Hugging Face model folder")


def _format(folder: Path) -> str:
    """The format that megatron-core has noted in `folder`, such as torch_dist."""
    try:
        return f"Megatron-LM, {json.loads((folder / 'metadata.json').read_text(encoding='utf-8'))['sharded_backend']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "PyTorch's distributed format"
