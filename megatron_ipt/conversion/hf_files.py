"""The files of a Hugging Face model folder, checked without importing torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from megatron_ipt.errors import UserError
from megatron_ipt.tokenization.tokenizer_files import CHAT_TEMPLATE_NAME, TOKENIZER_FILES

CONFIG_NAME = "config.json"
GENERATION_NAME = "generation_config.json"
README_NAME = "README.md"
SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
_AGAIN = "fetch the folder again"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_REWRITTEN = {CONFIG_NAME, CHAT_TEMPLATE_NAME, "manifest.json", "parity.json", *TOKENIZER_FILES}
_NOT_CARRIED_SUFFIXES = {
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx"),  # weights
    ".py",  # code for a config.json that names it; the one that is written does not
}


def weight_files(folder: Path) -> list[Path]:
    """List the files that hold the weights, including the index if there is one.

    Raises:
        UserError: there are none in safetensors format, or some are missing.
    """
    if (folder / SINGLE_NAME).is_file():
        return [folder / SINGLE_NAME]
    index = folder / INDEX_NAME
    if not index.is_file():
        raise UserError(
            "input",
            folder,
            f"it holds neither {SINGLE_NAME} nor {INDEX_NAME}",
            "save the model with save_pretrained (safetensors); pickled weights are not read",
        )
    files = [folder / name for name in _indexed_names(index)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise UserError("input", index, f"it names {missing[0]}, which is not there", _AGAIN)
    return [index, *files]


def carried_files(folder: Path) -> list[Path]:
    """List the files that still hold after a conversion: generation settings, README, licence, notices.

    Weights, config.json and the tokenizer with its chat templates are written anew.
    """
    return sorted(
        file
        for file in folder.iterdir()
        if file.is_file()
        and not file.name.startswith(".")
        and file.name not in _REWRITTEN
        and file.suffix not in _NOT_CARRIED_SUFFIXES
        and not file.name.endswith(".index.json")
    )


def check_generation_settings(folder: Path) -> None:
    """Check generation_config.json, if there is one: transformers ignores a broken one without a word.

    Raises:
        UserError: it is no JSON object.
    """
    if (folder / GENERATION_NAME).is_file():
        read_object(folder / GENERATION_NAME, f"{_AGAIN}, or remove the file")


def read_object(file: Path, remedy: str) -> dict[str, Any]:
    """Read the JSON object in `file`.

    Raises:
        UserError: there is none.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise UserError("input", file, "not a JSON object", remedy)
    return values


def refuse_lfs_pointers(files: Iterable[Path]) -> None:
    """Check that none of `files` is what git leaves in place of a large file that was not downloaded.

    Raises:
        UserError: one is.
    """
    for file in files:
        with file.open("rb") as handle:
            if handle.read(len(_LFS_POINTER)) == _LFS_POINTER:
                reason = "it is a pointer of Git LFS, not the file itself"
                raise UserError("input", file, reason, "run `git lfs pull` in that folder, or fetch it again")


def _indexed_names(index: Path) -> list[str]:
    refuse_lfs_pointers([index])
    try:
        values = json.loads(index.read_text(encoding="utf-8"))
        names = sorted(set(values["weight_map"].values()))
        is_plain = bool(names) and all(Path(name).name == name and name.endswith(".safetensors") for name in names)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"not an index of safetensors files: {type(error).__name__}: {error}"
        raise UserError("input", index, reason, _AGAIN) from error
    if not is_plain:
        raise UserError("input", index, "its weight_map does not name safetensors files of this folder", _AGAIN)
    if "metadata" not in values:
        raise UserError("input", index, "transformers reads no index without metadata", 'add "metadata": {} to it')
    return names
