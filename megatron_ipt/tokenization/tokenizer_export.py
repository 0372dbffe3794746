"""The tokenizer of an exported folder, which has to give the ids that the model was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers

from megatron_ipt.errors import UserError
from megatron_ipt.tokenization.encoders import ReferenceEncoder, choose_encoder, probe_texts, split_by_text
from megatron_ipt.tokenization.parity_text import PARITY_TEXTS
from megatron_ipt.tokenization.tokenizer_folders import write_tokenizer_folder
from megatron_ipt.tokenization.transformers_tokenizer import LoadedTokenizer, describe_tokenizer


def export_tokenizer(tokenizer: Any, folder: Path, *, adds_bos: bool | None) -> tuple[list[Path], dict[str, Any]]:
    """Write `tokenizer` beside the model in `folder`; its files, and what was compared.

    Raises:
        UserError: AutoTokenizer gives other ids for the folder than preprocessing.
    """
    files = write_tokenizer_folder(tokenizer, folder, adds_bos=adds_bos)
    loaded = describe_tokenizer(tokenizer)
    texts = check_tokenizer(folder, loaded, adds_bos=adds_bos)
    return files, {"puts_bos": adds_bos, "texts_compared": texts}


def check_tokenizer(folder: Path, loaded: LoadedTokenizer, *, adds_bos: bool | None) -> int:
    """Compare the ids of AutoTokenizer for `folder` with preprocessing's, text by text; the number of texts.

    Raises:
        UserError: they differ.
    """
    texts = [*PARITY_TEXTS, *(f" {text}" for text in PARITY_TEXTS), *probe_texts(loaded)]
    encoder, _ = choose_encoder(loaded, ReferenceEncoder(loaded), threads=1)
    exported = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    found = exported(texts, add_special_tokens=adds_bos is not None, split_special_tokens=True)["input_ids"]
    before = [loaded.bos_id] if adds_bos else []
    for text, ids, expected in zip(texts, found, split_by_text(encoder.encode(texts)), strict=True):
        if ids != [*before, *expected.tolist()]:
            trained_on = [*before, *expected.tolist()][:10]
            reason = f"AutoTokenizer gives {ids[:10]} for {text[:40]!r}, the training data {trained_on}"
            remedy = (
                "convert with the version of transformers that the manifest of the data names; or, as transformers 5 "
                "gives Qwen's pre-tokenizer to every qwen2 model, choose another model.family for another tokenizer"
            )
            raise UserError("tokenizer", folder, reason, remedy)
    return len(texts)
