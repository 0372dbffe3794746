"""A text reduced to its letters and digits in one case, where every run of them can be looked up by its hash.

Whatever stands between the letters is left out, so that neither punctuation nor spacing tells two texts apart; the
words of the original only say where a run may begin and end.
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


class Letters:
    """The letters and digits of one text."""

    def __init__(self, text: str) -> None:
        """Unicode's compatibility forms are unified (NFKC) and cases folded."""
        self.text = unicodedata.normalize("NFKC", text).replace("ß", "ss")
        codes = np.frombuffer(self.text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        folded = _folding()[codes]
        self.places: Offsets = np.flatnonzero(folded)
        """Where in `text` each letter stands."""
        letters = folded[self.places]
        self._starts_word = np.ones(len(letters) + 1, dtype=bool)
        self._starts_word[1:-1] = (np.diff(self.places) != 1) | _stands_alone(letters[1:])
        self.word_starts: Offsets = np.flatnonzero(self._starts_word[:-1])
        powers, self._inverse_powers = _powers_up_to(len(self.places) + 1)
        self._sums = np.zeros(len(self.places) + 1, dtype=np.uint64)
        np.cumsum(_mix(letters) * powers[: len(letters)], out=self._sums[1:])

    def __len__(self) -> int:
        return len(self.places)

    def hash_runs(self, starts: Offsets, lengths: Offsets | int) -> UInt64:
        """64-bit hashes of the runs of `lengths` letters at `starts`; they must fit."""
        return (self._sums[starts + lengths] - self._sums[starts]) * self._inverse_powers[starts]

    def ends_word(self, end: int) -> bool:
        """Whether a word ends before letter number `end`."""
        return bool(self._starts_word[end])

    def quote(self, start: int, end: int) -> str:
        """What stands in the text from letter `start` to letter `end`."""
        return self.text[self.places[start] : self.places[end - 1] + 1]


def _stands_alone(letters: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Kana and Han characters, which no space divides into words."""
    return (letters >= 0x3040) & (letters <= 0x9FFF)


def _mix(values: NDArray[np.uint32]) -> UInt64:
    """Code points spread over 64 bits (the finalizer of splitmix64)."""
    mixed = values.astype(np.uint64) * np.uint64(_BASE)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@lru_cache(maxsize=1)
def _folding() -> NDArray[np.uint32]:
    """For each code point the folded letter or digit, 0 for anything else."""
    table = np.zeros(_CODE_POINTS, dtype=np.uint32)
    for code in range(_CODE_POINTS):
        character = chr(code)
        if character.isalnum():
            table[code] = ord(character.casefold()[0])
    return table


def _powers_up_to(count: int) -> tuple[UInt64, UInt64]:
    return _powers(max(1 << 14, 1 << (count - 1).bit_length()))


@lru_cache(maxsize=4)
def _powers(count: int) -> tuple[UInt64, UInt64]:
    """The first `count` powers of the base and of its inverse, modulo 2^64."""
    tables = []
    for base in (_BASE, _BASE_INVERSE):
        factors = np.full(count, base, dtype=np.uint64)
        factors[0] = 1
        tables.append(np.cumprod(factors))
    return tables[0], tables[1]
