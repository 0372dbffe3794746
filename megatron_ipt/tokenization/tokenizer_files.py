"""The files that make up a Hugging Face tokenizer."""

from __future__ import annotations

from pathlib import Path

from megatron_ipt.errors import UserError

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
"""Those that decide the ids of a text."""
CHAT_TEMPLATE_NAME = "chat_template.jinja"
_MORE_CHAT_TEMPLATES = "additional_chat_templates/*.jinja"
_VOCABULARIES = frozenset(("tokenizer.json", "tokenizer.model", "vocab.json"))


def find_tokenizer_files(folder: Path) -> list[Path]:
    """Return the files in `folder` that decide the ids of a text."""
    return [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]


def require_tokenizer_files(folder: Path) -> list[Path]:
    """Return the files of the tokenizer in `folder`, its chat templates included.

    Raises:
        UserError: there is no tokenizer.
    """
    files = find_tokenizer_files(folder)
    if _VOCABULARIES.isdisjoint(file.name for file in files):
        raise UserError("tokenizer", folder, "it holds no tokenizer", "give a Hugging Face tokenizer folder")
    chat_template = folder / CHAT_TEMPLATE_NAME
    more = sorted(folder.glob(_MORE_CHAT_TEMPLATES))
    return [*files, *([chat_template] if chat_template.is_file() else []), *more]
