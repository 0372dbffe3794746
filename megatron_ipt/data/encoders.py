"""Many texts to token ids: gigatoken for speed, Hugging Face `tokenizers` as the reference it is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import orjson
from tokenizers import Tokenizer

from megatron_ipt.data.tokenizers import TOKENIZER_NAME
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
    """Texts to ids, without BOS or EOS; the name of a special token inside a text becomes that token's id."""

    name: str

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """The ids of each of `texts`."""
        ...


class ReferenceEncoder:
    """Hugging Face `tokenizers`, the library behind the tokenizer of the exported model."""

    name = "tokenizers"

    def __init__(self, loaded: LoadedTokenizer) -> None:
        self._tokenizer = Tokenizer.from_str(loaded.tokenizer_json)

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """The ids of each of `texts`."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return _joined([np.asarray(encoding.ids, np.uint32) for encoding in encodings])


class GigatokenEncoder:
    """gigatoken, with `reference` for a text that holds a byte the vocabulary has no token for.

    gigatoken refuses a byte-level vocabulary that lacks some of the 256 bytes (SmolLM2's lacks 21); `tokenizers`
    drops such bytes before it merges. So the missing bytes get stand-in ids past the vocabulary, and a text that comes
    out with one of those is encoded again by the reference.

    Raises:
        RuntimeError: gigatoken does not know this kind of tokenizer.
    """

    name = "gigatoken"

    def __init__(self, loaded: LoadedTokenizer, reference: ReferenceEncoder, threads: int) -> None:
        import gigatoken

        self._first_stand_in = loaded.vocab_size
        self._reference = reference
        self._parallel = threads != 1
        self._tokenizer = gigatoken.Tokenizer.from_json(_with_every_byte(loaded))

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
        mended = self._reference.encode([texts[index] for index in again])
        for index, piece in zip(again, split(mended), strict=True):
            pieces[index] = piece
        return _joined(pieces)


def choose_encoder(loaded: LoadedTokenizer, reference: ReferenceEncoder, threads: int) -> tuple[Encoder, str | None]:
    """gigatoken, or the reference where gigatoken does not do as it does, and then why."""
    try:
        fast = GigatokenEncoder(loaded, reference, threads)
        probed = split(fast.encode(_PROBES))
    except Exception as error:  # gigatoken raises RuntimeError, ValueError, ... for what it does not know
        return reference, f"gigatoken does not know this tokenizer ({str(error).splitlines()[0]})"
    for text, ids, expected in zip(_PROBES, probed, split(reference.encode(_PROBES)), strict=True):
        if not np.array_equal(ids, expected):
            return reference, f"gigatoken and tokenizers differ on {text!r}"
    return fast, None


def reads_otherwise(folder: Path, reference: ReferenceEncoder) -> bool:
    """Whether the tokenizer.json of `folder`, read as it stands, gives other ids than transformers' reading of it."""
    if not (file := folder / TOKENIZER_NAME).is_file():
        return False
    plain = Tokenizer.from_file(str(file)).encode_batch_fast(list(_PROBES), add_special_tokens=False)
    read = split(reference.encode(_PROBES))
    return any(encoding.ids != ids.tolist() for encoding, ids in zip(plain, read, strict=True))


def split(encoded: EncodedTexts) -> list[Ids]:
    """One array of ids for each text."""
    return np.split(encoded.ids, np.cumsum(encoded.lengths)[:-1])


def _joined(pieces: Sequence[Ids]) -> EncodedTexts:
    return EncodedTexts(np.concatenate(pieces), np.fromiter(map(len, pieces), np.int64, len(pieces)))


def _with_every_byte(loaded: LoadedTokenizer) -> str:
    tokenizer: dict[str, Any] = orjson.loads(loaded.tokenizer_json)
    if not _is_byte_level(tokenizer):
        return loaded.tokenizer_json
    vocab = tokenizer["model"]["vocab"]
    missing = [symbol for symbol in _byte_symbols() if symbol not in vocab]
    vocab.update({symbol: loaded.vocab_size + number for number, symbol in enumerate(missing)})
    return orjson.dumps(tokenizer).decode()


def _is_byte_level(tokenizer: dict[str, Any]) -> bool:
    splitter = tokenizer.get("pre_tokenizer") or {}
    kinds = {part["type"] for part in splitter.get("pretokenizers", (splitter,)) if part}
    return tokenizer["model"]["type"] == "BPE" and "ByteLevel" in kinds


def _byte_symbols() -> list[str]:
    """The character that stands for each byte in byte-level BPE, as GPT-2 defined it."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
