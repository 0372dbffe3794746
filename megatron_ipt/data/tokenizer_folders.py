"""Tokenizer folders that every version of transformers from 4.57 on reads alike, whatever config.json stands beside.

transformers picks a tokenizer's class by its own version, by tokenizer_config.json and by config.json; some classes
rebuild the tokenizer and set parts of tokenizer.json aside. `PreTrainedTokenizerFast` is known to all versions and
takes tokenizer.json as it stands, so a folder written here names that class and leaves nothing to others: no second
vocabulary, no lists in the form of one version, and BOS in the post-processor, which is applied once however it is
asked for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
from tokenizers import Tokenizer, processors

from megatron_ipt.data.tokenizers import TOKENIZER_CONFIG_NAME, TOKENIZER_NAME

_UNREACHABLE_SCORE = -1e6


def text_only_json(backend: Tokenizer) -> str:
    """The JSON of `backend` without truncation and padding, its Unigram model kept from spelling special tokens.

    A Unigram model finds every piece of its vocabulary in a text, also those that stand for special tokens and that
    sentencepiece itself would not find; a score below all others hides them.
    """
    backend.no_truncation()
    backend.no_padding()
    content: str = backend.to_str()
    tokenizer: dict[str, Any] = orjson.loads(content)
    model = tokenizer["model"]
    if model.get("type") != "Unigram":
        return content
    special = {token["content"] for token in tokenizer["added_tokens"] if token["special"]}
    for piece in model["vocab"]:
        if piece[0] in special:
            piece[1] = _UNREACHABLE_SCORE
    return orjson.dumps(tokenizer).decode()


def write_tokenizer_folder(tokenizer: Any, folder: Path, *, puts_bos: bool | None = None) -> list[Path]:
    """Write transformers' `tokenizer` into `folder`; the files.

    `puts_bos`: whether a text gets BOS before it and nothing else around it; None keeps what the tokenizer does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    backend = Tokenizer.from_str(text_only_json(tokenizer.backend_tokenizer))
    if puts_bos is not None:
        _set_bounds(backend, tokenizer.bos_token if puts_bos else None)
    backend.save(str(folder / TOKENIZER_NAME))
    config, chat_templates = tokenizer.save_chat_templates(str(folder), _config(tokenizer, backend), None, True)
    (folder / TOKENIZER_CONFIG_NAME).write_text(
        json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return [folder / TOKENIZER_NAME, folder / TOKENIZER_CONFIG_NAME, *map(Path, chat_templates)]


def _config(tokenizer: Any, backend: Tokenizer) -> dict[str, Any]:
    named = {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    more = [str(token) for token in tokenizer.extra_special_tokens if str(token) not in named.values()]
    before, after = _bounds(backend)
    pre_tokenizer = orjson.loads(backend.to_str())["pre_tokenizer"] or {}
    # transformers 4 would set it to false in the pre-tokenizer if the configuration did not name it
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


def _set_bounds(backend: Tokenizer, bos: str | None) -> None:
    """Have `backend` put `bos` before a text and nothing after it; a post-processor that does so already is kept."""
    before = [] if bos is None else [bos]
    ids = [backend.token_to_id(token) for token in before]
    if _bounds(backend) == (ids, []):
        return
    backend.post_processor = processors.TemplateProcessing(
        single=[*before, "$A"],
        pair=[*before, "$A", *(f"{token}:1" for token in before), "$B:1"],
        special_tokens=list(zip(before, ids, strict=True)),
    )


def _bounds(backend: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that `backend` puts before and after a text."""
    encoding = backend.encode("a")
    is_added = encoding.special_tokens_mask
    first, last = is_added.index(0), len(is_added) - is_added[::-1].index(0)
    return encoding.ids[:first], encoding.ids[last:]
