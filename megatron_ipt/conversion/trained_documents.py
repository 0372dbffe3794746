"""How documents stand in the data that a checkpoint was trained on, by the manifests of the stages that wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megatron_ipt.checkpointing.layout import CONTENTS_NAME
from megatron_ipt.conversion.sources import AVERAGE
from megatron_ipt.corpus.manifest import Manifest, read_manifest
from megatron_ipt.errors import UserError
from megatron_ipt.tokenization.data_manifests import (
    CHAT_SET,
    find_foreign_data,
    read_chat_templates,
    read_data_manifests,
)
from megatron_ipt.tokenization.tokenizers import read_tokenizer


@dataclass(frozen=True)
class ChatFormat:
    """The chat template that a model was trained with, and the ids of the special tokens that end its answers."""

    template: str
    turn_end_ids: list[int]


def documents_begin_with_bos(checkpoint: Path, tokenizer: Path) -> bool | None:
    """Whether BOS stands before each document; None where no manifest says, or two differ.

    Conversations begin as their template says. After training on nothing else, other documents begin as they did in the
    training that it started from.

    Raises:
        UserError: the data was made with another tokenizer than `tokenizer`.
    """
    made = _data_manifests(checkpoint)
    if not made:
        return None
    if problems := list(find_foreign_data("tokenizer", tokenizer, made)):
        raise UserError.of(problems)
    read = read_tokenizer(tokenizer)
    documents = [manifest for manifest in made.values() if manifest.stage != CHAT_SET]
    if not documents:
        base = _base(checkpoint)
        return None if base is None else documents_begin_with_bos(base, tokenizer)
    answers = {bool(manifest.config.get("prepend_bod", read.bos_id is not None)) for manifest in documents}
    return answers.pop() if len(answers) == 1 else None


def find_chat_format(checkpoint: Path, tokenizer_template: str | None) -> ChatFormat | None:
    """The chat template of the conversations that a checkpoint was trained on; None if there were none.

    Args:
        checkpoint: of the run.
        tokenizer_template: that of the tokenizer, which decides if there were several.

    Raises:
        UserError: there were several templates, and that of the tokenizer is none of them.
    """
    formats = read_chat_templates(_data_manifests(checkpoint))
    if not formats:
        return None
    chosen = next(iter(formats)) if len(formats) == 1 else tokenizer_template
    if chosen is None or chosen not in formats:
        reason = "the model was trained with several chat templates, and that of the tokenizer is none of them"
        raise UserError("tokenizer", checkpoint, reason, "name a tokenizer folder with the one that is to be written")
    return ChatFormat(chosen, sorted(formats[chosen]))


def _data_manifests(checkpoint: Path) -> dict[Path, Manifest]:
    """Those of preprocessing, of chat sets, and of tuning sets, which put BOS wherever the tokenizer has one."""
    return read_data_manifests(_trained_on(checkpoint))


def _base(checkpoint: Path) -> Path | None:
    """The checkpoint that the run of `checkpoint` started from."""
    return next((file.parent for file in _trained_on(checkpoint) if file.name == CONTENTS_NAME), None)


def _trained_on(checkpoint: Path) -> list[Path]:
    """Return what the run of `checkpoint` read; for a mean of checkpoints, what their runs read."""
    manifest = read_manifest(checkpoint)
    files = [(checkpoint / record.path).resolve() for record in manifest.inputs] if manifest is not None else []
    if manifest is not None and manifest.stage == AVERAGE:
        return [file for seal in files for file in _trained_on(seal.parent)]
    return files
