"""Encoding of texts to token ids: gigatoken for speed, verified against Hugging Face `tokenizers`.

Texts are plain text: the name of a special token in them is encoded like any other characters, as transformers does
with `split_special_tokens=True`. Added tokens that are not special are recognized, as by their own tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import orjson
from tokenizers import Tokenizer

from megatron_ipt.tokenization.tokenizers import AddedToken, TokenizerJson
from megatron_ipt.tokenization.transformers_tokenizer import LoadedTokenizer

Ids = npt.NDArray[np.uint32]
Lengths = npt.NDArray[np.int64]

# One text for each property in which tokenizers are known to differ: white space, special tokens, bytes, Unicode forms.
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
    """The ids of several texts, concatenated, (sum of lengths,), and the number of ids of each, (texts,)."""

    ids: Ids
    lengths: Lengths


class Encoder(Protocol):
    """Encodes texts to ids, without BOS or EOS."""

    name: str

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """Encode each of `texts`."""
        ...


class ReferenceEncoder:
    """Encodes with Hugging Face `tokenizers`, the library behind the tokenizer of the exported model."""

    name = "tokenizers"

    def __init__(self, loaded: LoadedTokenizer) -> None:
        self._tokenizer = Tokenizer.from_str(loaded.tokenizer_json)
        self._tokenizer.encode_special_tokens = True

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """Encode each of `texts`."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return _concatenate([np.asarray(encoding.ids, np.uint32) for encoding in encodings])


class GigatokenEncoder:
    """Encodes with gigatoken; texts with a byte for which the vocabulary has no token go to `reference`.

    gigatoken (0.10) gets no special tokens, because it would recognize their names in texts. It refuses a byte-level
    vocabulary that lacks some of the 256 bytes (SmolLM2's lacks 21), where `tokenizers` drops such bytes before
    merging. The missing bytes therefore get placeholder ids past the vocabulary, and a text that is encoded with one of
    them is encoded again by the reference.

    Raises:
        RuntimeError: gigatoken does not support this kind of tokenizer.
    """

    name = "gigatoken"

    def __init__(self, loaded: LoadedTokenizer, reference: ReferenceEncoder, threads: int) -> None:
        import gigatoken

        self._first_placeholder = loaded.vocab_size
        self._reference = reference
        self._parallel = threads != 1
        self._tokenizer = gigatoken.Tokenizer.from_json(_gigatoken_json(loaded))

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """Encode each of `texts`."""
        import awkward as ak

        rows = self._tokenizer.encode_batch(list(texts), parallel=self._parallel)
        ids = np.asarray(ak.flatten(rows), np.uint32)
        lengths = np.asarray(ak.num(rows, axis=1), np.int64)
        if not (placeholders := np.flatnonzero(ids >= self._first_placeholder)).size:
            return EncodedTexts(ids, lengths)
        ends = np.cumsum(lengths)
        pieces = np.split(ids, ends[:-1])
        affected = np.unique(np.searchsorted(ends, placeholders, side="right"))
        corrected = self._reference.encode([texts[index] for index in affected])
        for index, piece in zip(affected, split_by_text(corrected), strict=True):
            pieces[index] = piece
        return _concatenate(pieces)


def choose_encoder(loaded: LoadedTokenizer, reference: ReferenceEncoder, threads: int) -> tuple[Encoder, str | None]:
    """Choose gigatoken, or the reference together with the reason if gigatoken would give other ids.

    Args:
        loaded: the tokenizer.
        reference: the encoder that gigatoken must agree with.
        threads: the number of threads; 1 for no parallelism, 0 for all cores.
    """
    tokenizer: TokenizerJson = orjson.loads(loaded.tokenizer_json)
    if conditional := [
        token["content"] for token in _non_special_tokens(tokenizer) if _is_conditional(token, tokenizer)
    ]:
        return reference, f"gigatoken ignores the conditions for matching the added token {conditional[0]!r}"
    try:
        fast = GigatokenEncoder(loaded, reference, threads)
        probed = split_by_text(fast.encode(texts := probe_texts(loaded)))
    except Exception as error:  # gigatoken 0.10 raises RuntimeError, ValueError, ... for what it does not support
        return reference, f"gigatoken does not support this tokenizer ({str(error).splitlines()[0]})"
    for text, ids, expected in zip(texts, probed, split_by_text(reference.encode(texts)), strict=True):
        if not np.array_equal(ids, expected):
            return reference, f"gigatoken and tokenizers differ on {text!r}"
    return fast, None


def probe_texts(loaded: LoadedTokenizer) -> list[str]:
    """Return short texts on which tokenizers are known to differ, including the added tokens of `loaded`."""
    added = [token["content"] for token in orjson.loads(loaded.tokenizer_json)["added_tokens"]]
    return [*_PROBES, *(text for name in added for text in (name, f"a{name}b", f"a {name} b", f"{name}{name} "))]


def split_by_text(encoded: EncodedTexts) -> list[Ids]:
    """Split into one array of ids per text."""
    return np.split(encoded.ids, np.cumsum(encoded.lengths)[:-1])


def _concatenate(pieces: Sequence[Ids]) -> EncodedTexts:
    return EncodedTexts(np.concatenate(pieces), np.fromiter(map(len, pieces), np.int64, len(pieces)))


def _gigatoken_json(loaded: LoadedTokenizer) -> str:
    """Return tokenizer.json without special tokens, and with a token for every byte."""
    tokenizer: TokenizerJson = orjson.loads(loaded.tokenizer_json)
    tokenizer["added_tokens"] = _non_special_tokens(tokenizer)
    tokenizer["post_processor"] = None
    if _is_byte_level(tokenizer):
        vocab = tokenizer["model"]["vocab"]
        missing = [symbol for symbol in _byte_symbols() if symbol not in vocab]
        vocab.update({symbol: loaded.vocab_size + number for number, symbol in enumerate(missing)})
    return orjson.dumps(tokenizer).decode()


def _non_special_tokens(tokenizer: TokenizerJson) -> list[AddedToken]:
    """Return the added tokens that are recognized in plain text."""
    return [token for token in tokenizer["added_tokens"] if not token["special"]]


def _is_conditional(token: AddedToken, tokenizer: TokenizerJson) -> bool:
    """Return whether the match of an added token depends on, or includes, the characters around it.

    Tokens that are matched in the normalized text count too: gigatoken (0.10) ignores `single_word`, and may ignore the
    other conditions.
    """
    in_normalized = token["normalized"] and tokenizer["normalizer"] is not None
    return bool(token["single_word"] or token["lstrip"] or token["rstrip"] or in_normalized)


def _is_byte_level(tokenizer: TokenizerJson) -> bool:
    splitter = tokenizer.get("pre_tokenizer") or {}
    kinds = {part["type"] for part in splitter.get("pretokenizers", (splitter,)) if part}
    return tokenizer["model"]["type"] == "BPE" and "ByteLevel" in kinds


def _byte_symbols() -> list[str]:
    """Return the character that represents each byte in byte-level BPE, as defined by GPT-2."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
