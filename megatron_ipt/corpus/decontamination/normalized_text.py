"""A text reduced to its letters and digits in one case, with hashes of all its substrings.

Punctuation and spacing are left out, so that texts do not differ by them; the words of the original only decide where
an n-gram may begin and end.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

UInt64 = NDArray[np.uint64]
Offsets = NDArray[np.int64]

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_BASE_INVERSE = pow(_BASE, -1, 1 << 64)
_CODE_POINTS = 0x110000


class NormalizedText:
    """The letters and digits of one text, called letters for short; an n-gram is a sequence of them."""

    def __init__(self, text: str) -> None:
        """Unify the compatibility forms of Unicode (NFKC) and fold cases."""
        self.text = unicodedata.normalize("NFKC", text).replace("ß", "ss")
        codes = np.frombuffer(self.text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        folded = _folding()[codes]
        self.offsets: Offsets = np.flatnonzero(folded)
        """The index in `text` of each letter."""
        letters = folded[self.offsets]
        self._starts_word = np.ones(len(letters) + 1, dtype=bool)
        self._starts_word[1:-1] = (np.diff(self.offsets) != 1) | _stands_alone(letters[1:])
        self.word_starts: Offsets = np.flatnonzero(self._starts_word[:-1])
        # a polynomial rolling hash modulo 2^64, as prefix sums: the hash of any n-gram is then one subtraction
        powers, self._inverse_powers = _powers_up_to(len(self.offsets) + 1)
        self._sums = np.zeros(len(self.offsets) + 1, dtype=np.uint64)
        np.cumsum(_mix(letters) * powers[: len(letters)], out=self._sums[1:])

    def __len__(self) -> int:
        return len(self.offsets)

    def hash_ngrams(self, starts: Offsets, lengths: Offsets | int) -> UInt64:
        """Return 64-bit hashes of the n-grams of `lengths` letters at `starts`, which must fit into the text."""
        # the inverse power moves the n-gram to position 0, so that its hash does not depend on where it is
        return (self._sums[starts + lengths] - self._sums[starts]) * self._inverse_powers[starts]

    def ends_word(self, end: int) -> bool:
        """Return whether a word ends before letter number `end`."""
        return bool(self._starts_word[end])

    def quote(self, start: int, end: int) -> str:
        """Return the original text from letter `start` to letter `end`."""
        return self.text[self.offsets[start] : self.offsets[end - 1] + 1]


def _stands_alone(letters: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Return which letters are Kana or Han, which are not divided into words by spaces."""
    return (letters >= 0x3040) & (letters <= 0x9FFF)


def _mix(values: NDArray[np.uint32]) -> UInt64:
    """Spread code points over 64 bits (the finalizer of splitmix64)."""
    mixed = values.astype(np.uint64) * np.uint64(_BASE)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@lru_cache(maxsize=1)
def _folding() -> NDArray[np.uint32]:
    """Return for each code point the folded letter or digit, 0 for anything else."""
    table = np.zeros(_CODE_POINTS, dtype=np.uint32)
    for code in range(_CODE_POINTS):
        character = chr(code)
        if character.isalnum():
            table[code] = ord(character.casefold()[0])
    return table


def _powers_up_to(count: int) -> tuple[UInt64, UInt64]:
    # sizes are rounded up to powers of two, so that most texts share a cached table
    return _powers(max(1 << 14, 1 << (count - 1).bit_length()))


@lru_cache(maxsize=4)
def _powers(count: int) -> tuple[UInt64, UInt64]:
    """Return the first `count` powers of the base and of its inverse, modulo 2^64."""
    tables = []
    for base in (_BASE, _BASE_INVERSE):
        factors = np.full(count, base, dtype=np.uint64)
        factors[0] = 1
        tables.append(np.cumprod(factors))
    return tables[0], tables[1]
