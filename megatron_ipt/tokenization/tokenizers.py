"""The metadata of a tokenizer folder: vocabulary size, BOS, EOS, and the hash that identifies it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import orjson

from megatron_ipt.corpus.manifest import JsonObject
from megatron_ipt.errors import UserError

TOKENIZER_NAME = "tokenizer.json"
TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
_SPECIAL_TOKENS_NAME = "special_tokens_map.json"


class AddedToken(TypedDict):
    """An entry of `added_tokens` in tokenizer.json."""

    id: int
    content: str
    special: bool
    normalized: bool
    single_word: bool
    lstrip: bool
    rstrip: bool


class TokenizerJson(TypedDict):
    """tokenizer.json, the format of `tokenizers`; the parts depend on their `type`."""

    added_tokens: list[AddedToken]
    model: JsonObject
    normalizer: JsonObject | None
    pre_tokenizer: JsonObject | None
    post_processor: JsonObject | None


@dataclass(frozen=True)
class TokenizerInfo:
    """Metadata of a tokenizer.

    `vocab_size` is the largest id plus one, added tokens included; `sha256` is that of tokenizer.json.
    """

    vocab_size: int
    bos_id: int | None
    eos_id: int
    sha256: str


def read_tokenizer(folder: Path) -> TokenizerInfo:
    """Read a Hugging Face tokenizer folder, without transformers.

    Raises:
        UserError: there is no folder or tokenizer.json, a file is damaged, or there is no EOS token.
    """
    file = tokenizer_file(folder)
    content = file.read_bytes()
    ids = _ids_of_tokens(file, _load_object(file, content))
    named = {**_read_object(folder / _SPECIAL_TOKENS_NAME), **_read_object(folder / TOKENIZER_CONFIG_NAME)}
    bos_id, eos_id = (_id_of(named.get(name), ids) for name in ("bos_token", "eos_token"))
    if eos_id is None:
        raise UserError(
            str(folder / TOKENIZER_CONFIG_NAME),
            f"eos_token: {named.get('eos_token')}",
            "the tokenizer names no EOS token of its vocabulary",
            "set eos_token in this file to the token that ends a document",
        )
    return TokenizerInfo(max(ids.values()) + 1, bos_id, eos_id, hashlib.sha256(content).hexdigest())


def tokenizer_file(folder: Path) -> Path:
    """Return the tokenizer.json of `folder`.

    Raises:
        UserError: it does not exist.
    """
    if not folder.is_dir():
        raise UserError("tokenizer", folder, "no such folder", "give a Hugging Face tokenizer or model folder")
    if not (folder / TOKENIZER_NAME).is_file():
        raise UserError(
            "tokenizer",
            folder,
            f"the folder has no {TOKENIZER_NAME}",
            "give a folder with one; preprocess_data converts a sentencepiece model to one "
            "(--tokenizer-type SentencePieceTokenizer)",
        )
    return folder / TOKENIZER_NAME


def _ids_of_tokens(file: Path, tokenizer: JsonObject) -> dict[str, int]:
    try:
        vocab = tokenizer["model"]["vocab"]
        if isinstance(vocab, list):  # a Unigram model: pieces with their scores
            vocab = {piece: index for index, (piece, _) in enumerate(vocab)}
        return {**vocab, **{token["content"]: token["id"] for token in tokenizer.get("added_tokens", ())}}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(str(file), "(damaged)", f"not a tokenizer: no {error}", "copy the tokenizer again") from error


def _id_of(token: object, ids: Mapping[str, int]) -> int | None:
    """Return the id of a special token, which is stored as its text or as an object; None if it has none."""
    content = token.get("content") if isinstance(token, dict) else token
    return ids.get(content) if isinstance(content, str) else None


def _read_object(file: Path) -> JsonObject:
    return _load_object(file, file.read_bytes()) if file.is_file() else {}


def _load_object(file: Path, content: bytes) -> JsonObject:
    try:
        loaded = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise UserError(str(file), "(damaged)", f"not valid JSON: {error}", "copy the tokenizer again") from error
    if not isinstance(loaded, dict):
        raise UserError(str(file), "(damaged)", "not a JSON object", "copy the tokenizer again")
    return loaded
