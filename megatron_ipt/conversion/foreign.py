"""Errors for folders that hold something other than the input of a conversion."""

from __future__ import annotations

from pathlib import Path

from megatron_ipt.checkpointing.layout import CONTENTS_NAME, resolve_checkpoint
from megatron_ipt.conversion.hf_files import CONFIG_NAME
from megatron_ipt.conversion.megatron_lm.locate import find_megatron_lm
from megatron_ipt.errors import UserError

_IMPORT = "import it with direction=mlm-to-mcore"


def no_checkpoint(path: Path) -> UserError:
    """The error that there is no checkpoint of this trainer in `path`, with what is there instead."""
    found = find_megatron_lm(path)
    if found is not None and found.format != "other":
        return UserError("input", path, f"{found.folder} is a checkpoint of Megatron-LM, {found.format}", _IMPORT)
    if found is not None:
        reason = f"{found.folder} is a checkpoint of another program: it has no {CONTENTS_NAME}"
        return UserError("input", path, reason, "save it in Megatron-LM's torch_dist format")
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
    if find_megatron_lm(path) is not None:
        return no_checkpoint(path)
    return UserError("input", path, f"it holds no {CONFIG_NAME}", "name a Hugging Face model folder")
