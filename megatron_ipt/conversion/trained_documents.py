"""How documents stand in the data that a checkpoint was trained on, by the manifests of the stages that wrote it."""

from __future__ import annotations

from pathlib import Path

from megatron_ipt.corpus.manifest import Manifest, find_producer, read_manifest
from megatron_ipt.errors import UserError
from megatron_ipt.tokenization.tokenizers import TOKENIZER_NAME, read_tokenizer


def documents_begin_with_bos(checkpoint: Path, tokenizer: Path) -> bool | None:
    """Whether BOS stands before each document; None where no manifest says, or two differ.

    Raises:
        UserError: the data was made with another tokenizer than `tokenizer`.
    """
    made = _data_manifests(checkpoint)
    if not made:
        return None
    read = read_tokenizer(tokenizer)
    for file, manifest in made.items():
        if not _is_made_with(read.sha256, manifest):
            reason = f"its {TOKENIZER_NAME} is not the one that the training data was made with ({file})"
            raise UserError("tokenizer", tokenizer, reason, "name the tokenizer of the training data")
    answers = {bool(manifest.config.get("prepend_bod", read.bos_id is not None)) for manifest in made.values()}
    return answers.pop() if len(answers) == 1 else None


def _data_manifests(checkpoint: Path) -> dict[Path, Manifest]:
    """Those of preprocessing, and of tuning sets, which put BOS wherever the tokenizer has one, without a setting."""
    manifest = read_manifest(checkpoint)
    files = [(checkpoint / record.path).resolve() for record in manifest.inputs] if manifest is not None else []
    makers = dict(maker for file in files if (maker := find_producer(file)) is not None)
    return {file: made for file, made in makers.items() if made.stage in ("preprocess", "tuning-set")}


def _is_made_with(tokenizer_sha256: str, manifest: Manifest) -> bool:
    """Whether `manifest` names this tokenizer, or none."""
    records = (*manifest.inputs, *manifest.outputs)
    made_with = {record.sha256 for record in records if Path(record.path).name == TOKENIZER_NAME}
    if isinstance(used := manifest.counts.get("tokenizer"), dict):  # converted from a sentencepiece model
        made_with.add(used["sha256"])
    return not made_with or tokenizer_sha256 in made_with
