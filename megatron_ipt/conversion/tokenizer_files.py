"""The files that make up a Hugging Face tokenizer."""

from __future__ import annotations

from pathlib import Path

from megatron_ipt.errors import UserError

_NAMES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


def tokenizer_files(folder: Path) -> list[Path]:
    """List the tokenizer files in `folder`.

    Raises:
        UserError: there is no tokenizer.
    """
    files = [folder / name for name in _NAMES if (folder / name).is_file()]
    if not {file.name for file in files} & {"tokenizer.json", "tokenizer.model", "vocab.json"}:
        raise UserError("tokenizer", folder, "it holds no tokenizer", "name a Hugging Face tokenizer folder")
    return files
