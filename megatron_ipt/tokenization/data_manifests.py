"""Manifests of the stages that tokenized training data, and whether a tokenizer is theirs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from megatron_ipt.corpus.manifest import Manifest, find_producer
from megatron_ipt.errors import Problem
from megatron_ipt.tokenization.tokenizer_files import CHAT_TEMPLATE_NAME
from megatron_ipt.tokenization.tokenizers import TOKENIZER_CONFIG_NAME, TOKENIZER_NAME, read_tokenizer

CHAT_SET = "chat-set"
_TOKENIZING_STAGES = ("preprocess", "tuning-set", CHAT_SET)


def read_data_manifests(files: Iterable[Path]) -> dict[Path, Manifest]:
    """Return the manifests of the stages that tokenized `files`, by path; files of other origin are left out."""
    makers = dict(maker for file in files if (maker := find_producer(file)) is not None)
    return {file: made for file, made in makers.items() if made.stage in _TOKENIZING_STAGES}


def find_foreign_data(field: str, tokenizer: Path, manifests: Mapping[Path, Manifest]) -> Iterator[Problem]:
    """Yield a problem for the first of `manifests` that names a tokenizer other than `tokenizer`.

    Args:
        field: the setting that names `tokenizer`, a folder.
    """
    sha256 = read_tokenizer(tokenizer).sha256 if manifests else ""
    for file, manifest in manifests.items():
        if not _is_made_with(sha256, manifest):
            reason = f"its {TOKENIZER_NAME} is not the one that the training data was made with ({file})"
            yield Problem(field, tokenizer, reason, "name the tokenizer of the training data")
            return


def read_chat_templates(manifests: Mapping[Path, Manifest]) -> dict[str, set[int]]:
    """Return the chat templates of the conversations among the data, each with the ids that end its answers."""
    templates: dict[str, set[int]] = {}
    for file, manifest in manifests.items():
        if manifest.stage == CHAT_SET:
            template = (file.parent / CHAT_TEMPLATE_NAME).read_text(encoding="utf-8")
            templates.setdefault(template, set()).update(manifest.counts["turn_ends"].values())
    return templates


def find_unclear_template(field: str, tokenizer: Path, manifests: Mapping[Path, Manifest]) -> Iterator[Problem]:
    """Yield a problem if the data has several chat templates, and that of `tokenizer` is none of them.

    Args:
        field: the setting that names `tokenizer`, a folder.
    """
    templates = read_chat_templates(manifests)
    if len(templates) > 1 and _chat_template_of(tokenizer) not in templates:
        reason = "the conversations have several chat templates, and that of the tokenizer is none of them"
        yield Problem(field, tokenizer, reason, "name a tokenizer folder with the one that exports are to have")


def _chat_template_of(tokenizer: Path) -> object:
    file, config = tokenizer / CHAT_TEMPLATE_NAME, tokenizer / TOKENIZER_CONFIG_NAME
    if file.is_file():
        return file.read_text(encoding="utf-8")
    return json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.is_file() else None


def _is_made_with(tokenizer_sha256: str, manifest: Manifest) -> bool:
    """Return whether `manifest` names this tokenizer, or none."""
    records = (*manifest.inputs, *manifest.outputs)
    made_with = {record.sha256 for record in records if Path(record.path).name == TOKENIZER_NAME}
    if isinstance(used := manifest.counts.get("tokenizer"), dict):  # converted from a sentencepiece model
        made_with.add(used["sha256"])
    return not made_with or tokenizer_sha256 in made_with
