"""Many texts to token ids: gigatoken for speed, Hugging Face `tokenizers` as the reference it is held against.

A text is text: the name of a special token in it is encoded like any other characters, as transformers does with
`split_special_tokens=True`. Added tokens that are not special are found in texts, as their tokenizer wants it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import orjson
from tokenizers import Tokenizer

from megatron_ipt.data.transformers_tokenizer import LoadedTokenizer

Ids = npt.NDArray[np.uint32]
Lengths = npt.NDArray[np.int64]

# One text for each thing in which tokenizers are known to differ: white space, special tokens, bytes, Unicode forms.
_PROBES = (
    *("", " ", "  ", "\n", "\t", "\r\n", " lead", "  two lead", "trail ", "a  b   c\n\n\nd", "\u00a0x\u3000y\u2028z"),
    *("<s>", "a<s>b", "</s> </s>", " <unk>x", "<|endoftext|>a", "<|im_start|>user\n", "<s", "<0x0A>", "▁", "a▁b"),
    *("1234567890", "3.14 1,000", "don't I'LL we'Ve", "snake_case camelCase", "x" * 300, "!?...,;", "\x00\x01\x7f\x85"),
    *(
        "é",
        "e\u0301",
        "ß İ ﷺ",
        "日本語 한국어 العربية हिन्दी",
        "😀👩‍👩‍👧‍👦🏽🇩🇪",
        "\ufeff\u200b",
        "\U0010ffff\ue000\uffff",
    ),
)


@dataclass(frozen=True)
class EncodedTexts:
    """The ids of several texts end to end, (sum of lengths,), and the number of ids of each, (texts,)."""

    ids: Ids
    lengths: Lengths


class Encoder(Protocol):
    """Texts to ids, without BOS or EOS."""

    name: str

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """The ids of each of `texts`."""
        ...


class ReferenceEncoder:
    """Hugging Face `tokenizers`, the library behind the tokenizer of the exported model."""

    name = "tokenizers"

    def __init__(self, loaded: LoadedTokenizer) -> None:
        self._tokenizer = Tokenizer.from_str(loaded.tokenizer_json)
        self._tokenizer.encode_special_tokens = True

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """The ids of each of `texts`."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return _joined([np.asarray(encoding.ids, np.uint32) for encoding in encodings])


class GigatokenEncoder:
    """gigatoken, with `reference` for a text that holds a byte the vocabulary has no token for.

    It is not given the special tokens, whose names it would find in texts. It refuses a byte-level vocabulary that
    lacks some of the 256 bytes (SmolLM2's lacks 21); `tokenizers` drops such bytes before it merges. So the missing
    bytes get stand-in ids past the vocabulary, and a text encoded with one of those is encoded again by the reference.

    Raises:
        RuntimeError: gigatoken does not know this kind of tokenizer.
    """

    name = "gigatoken"

    def __init__(self, loaded: LoadedTokenizer, reference: ReferenceEncoder, threads: int) -> None:
        import gigatoken

        self._first_stand_in = loaded.vocab_size
        self._reference = reference
        self._parallel = threads != 1
        self._tokenizer = gigatoken.Tokenizer.from_json(_for_gigatoken(loaded))

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """The ids of each of `texts`."""
        import awkward as ak

        rows = self._tokenizer.encode_batch(list(texts), parallel=self._parallel)
        ids = np.asarray(ak.flatten(rows), np.uint32)
        lengths = np.asarray(ak.num(rows, axis=1), np.int64)
        if not (stand_ins := np.flatnonzero(ids >= self._first_stand_in)).size:
            return EncodedTexts(ids, lengths)
        ends = np.cumsum(lengths)
        pieces = np.split(ids, ends[:-1])
        again = np.unique(np.searchsorted(ends, stand_ins, side="right"))
        corrected = self._reference.encode([texts[index] for index in again])
        for index, piece in zip(again, split(corrected), strict=True):
            pieces[index] = piece
        return _joined(pieces)


def choose_encoder(loaded: LoadedTokenizer, reference: ReferenceEncoder, threads: int) -> tuple[Encoder, str | None]:
    """gigatoken, or the reference where gigatoken does not do as it does, and then why."""
    tokenizer: dict[str, Any] = orjson.loads(loaded.tokenizer_json)
    if conditional := [token["content"] for token in _found_in_texts(tokenizer) if _is_conditional(token, tokenizer)]:
        return reference, f"gigatoken ignores the conditions under which the added token {conditional[0]!r} is found"
    try:
        fast = GigatokenEncoder(loaded, reference, threads)
        probed = split(fast.encode(texts := probes(loaded)))
    except Exception as error:  # gigatoken raises RuntimeError, ValueError, ... for what it does not know
        return reference, f"gigatoken does not know this tokenizer ({str(error).splitlines()[0]})"
    for text, ids, expected in zip(texts, probed, split(reference.encode(texts)), strict=True):
        if not np.array_equal(ids, expected):
            return reference, f"gigatoken and tokenizers differ on {text!r}"
    return fast, None


def probes(loaded: LoadedTokenizer) -> list[str]:
    """Short texts on which tokenizers tend to differ, the added tokens of `loaded` among them."""
    added = [token["content"] for token in orjson.loads(loaded.tokenizer_json)["added_tokens"]]
    return [*_PROBES, *(text for name in added for text in (name, f"a{name}b", f"a {name} b", f"{name}{name} "))]


def split(encoded: EncodedTexts) -> list[Ids]:
    """One array of ids for each text."""
    return np.split(encoded.ids, np.cumsum(encoded.lengths)[:-1])


def _joined(pieces: Sequence[Ids]) -> EncodedTexts:
    return EncodedTexts(np.concatenate(pieces), np.fromiter(map(len, pieces), np.int64, len(pieces)))


def _for_gigatoken(loaded: LoadedTokenizer) -> str:
    """tokenizer.json without special tokens and with a token for every byte."""
    tokenizer: dict[str, Any] = orjson.loads(loaded.tokenizer_json)
    tokenizer |= {"added_tokens": _found_in_texts(tokenizer), "post_processor": None}
    if _is_byte_level(tokenizer):
        vocab = tokenizer["model"]["vocab"]
        missing = [symbol for symbol in _byte_symbols() if symbol not in vocab]
        vocab.update({symbol: loaded.vocab_size + number for number, symbol in enumerate(missing)})
    return orjson.dumps(tokenizer).decode()


def _found_in_texts(tokenizer: dict[str, Any]) -> list[dict[str, Any]]:
    return [token for token in tokenizer["added_tokens"] if not token["special"]]


def _is_conditional(token: dict[str, Any], tokenizer: dict[str, Any]) -> bool:
    """Whether an added token depends on, or takes in, what stands around it, or is found in the normalized text."""
    in_normalized = token["normalized"] and tokenizer["normalizer"] is not None
    return bool(token["single_word"] or token["lstrip"] or token["rstrip"] or in_normalized)


def _is_byte_level(tokenizer: dict[str, Any]) -> bool:
    splitter = tokenizer.get("pre_tokenizer") or {}
    kinds = {part["type"] for part in splitter.get("pretokenizers", (splitter,)) if part}
    return tokenizer["model"]["type"] == "BPE" and "ByteLevel" in kinds


def _byte_symbols() -> list[str]:
    """The character that stands for each byte in byte-level BPE, as GPT-2 defined it."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
