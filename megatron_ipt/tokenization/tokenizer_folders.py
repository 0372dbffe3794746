"""Tokenizer folders that every version of transformers from 4.57 on reads alike, whatever config.json is next to them.

transformers chooses the class of a tokenizer by its own version, by tokenizer_config.json and by config.json; some
classes rebuild the tokenizer and ignore parts of tokenizer.json. `PreTrainedTokenizerFast` exists in all versions and
uses tokenizer.json unchanged. A folder written here names that class and leaves nothing to defaults: no second
vocabulary, no list in the format of one version, and BOS in the post-processor, which adds it once however it is
requested.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from tokenizers import Tokenizer, processors

from megatron_ipt.tokenization.tokenizers import TOKENIZER_CONFIG_NAME, TOKENIZER_NAME, TokenizerJson

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_UNREACHABLE_SCORE = -1e6


def plain_tokenizer_json(backend: Tokenizer) -> str:
    """Serialize `backend` without truncation and padding, with a Unigram model that never yields special tokens.

    A Unigram model matches every piece of its vocabulary in a text, including those of special tokens, which
    sentencepiece itself would not match; a score below all others excludes them.
    """
    backend.no_truncation()
    backend.no_padding()
    content: str = backend.to_str()
    tokenizer: TokenizerJson = orjson.loads(content)
    model = tokenizer["model"]
    if model.get("type") != "Unigram":
        return content
    special = {token["content"] for token in tokenizer["added_tokens"] if token["special"]}
    for piece in model["vocab"]:
        if piece[0] in special:
            piece[1] = _UNREACHABLE_SCORE
    return orjson.dumps(tokenizer).decode()


def write_tokenizer_folder(
    tokenizer: PreTrainedTokenizerFast, folder: Path, *, adds_bos: bool | None = None
) -> list[Path]:
    """Write transformers' `tokenizer` into `folder`, and return the files.

    Args:
        tokenizer: the tokenizer to write.
        folder: the folder, created if missing.
        adds_bos: whether BOS, and nothing else, is added to a text by default; None keeps the tokenizer's own
            behavior.
    """
    folder.mkdir(parents=True, exist_ok=True)
    backend = Tokenizer.from_str(plain_tokenizer_json(tokenizer.backend_tokenizer))
    if adds_bos is not None:
        _set_added_tokens(backend, tokenizer.bos_token if adds_bos else None)
    backend.save(str(folder / TOKENIZER_NAME))
    config, chat_templates = tokenizer.save_chat_templates(str(folder), _config(tokenizer, backend), None, True)
    (folder / TOKENIZER_CONFIG_NAME).write_text(
        json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return [folder / TOKENIZER_NAME, folder / TOKENIZER_CONFIG_NAME, *map(Path, chat_templates)]


def _config(tokenizer: PreTrainedTokenizerFast, backend: Tokenizer) -> dict[str, object]:
    named = {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    more = [str(token) for token in tokenizer.extra_special_tokens if str(token) not in named.values()]
    before, after = _added_tokens(backend)
    pre_tokenizer = orjson.loads(backend.to_str())["pre_tokenizer"] or {}
    # transformers 4 sets it to false in the pre-tokenizer if the configuration does not name it
    prefix = {name: pre_tokenizer[name] for name in ("add_prefix_space",) if name in pre_tokenizer}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **named,
        **({"additional_special_tokens": more} if more else {}),
        "add_bos_token": before == [tokenizer.bos_token_id],
        "add_eos_token": after == [tokenizer.eos_token_id],
        **prefix,
        "clean_up_tokenization_spaces": bool(tokenizer.clean_up_tokenization_spaces),
        "model_input_names": ["input_ids", "attention_mask"],  # transformers 4 adds token_type_ids by default
        "model_max_length": tokenizer.model_max_length,
        "padding_side": tokenizer.padding_side,
    }


def _set_added_tokens(backend: Tokenizer, bos: str | None) -> None:
    """Make `backend` add `bos` before a text and nothing after it; keep a post-processor that already does."""
    before = [] if bos is None else [bos]
    ids = [backend.token_to_id(token) for token in before]
    if _added_tokens(backend) == (ids, []):
        return
    backend.post_processor = processors.TemplateProcessing(
        single=[*before, "$A"],
        pair=[*before, "$A", *(f"{token}:1" for token in before), "$B:1"],
        special_tokens=list(zip(before, ids, strict=True)),
    )


def _added_tokens(backend: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the ids that `backend` adds before and after a text."""
    encoding = backend.encode("a")
    is_added = encoding.special_tokens_mask
    first, last = is_added.index(0), len(is_added) - is_added[::-1].index(0)
    return encoding.ids[:first], encoding.ids[last:]
