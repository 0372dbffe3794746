"""N-grams by their hashes, looked up at all words of a text at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from megatron_ipt.corpus.decontamination.ngrams import Ngrams, Placement
from megatron_ipt.corpus.decontamination.normalized_text import NormalizedText, Offsets, UInt64

_PREFIX_LETTERS = (6, 10, 16, 24, 36, 48, 64)
_KNOWN_PREFIXES = np.array(_PREFIX_LETTERS)
_SIEVE_BITS = 24
_SHIFT = np.uint64(64 - _SIEVE_BITS)
_STOPS = frozenset("\n.?!:;…")


@dataclass
class NgramTable:
    """The n-grams of all wordings, in columns; each wording adds one array per column."""

    prefixes: list[UInt64] = field(default_factory=lambda: [np.empty(0, np.uint64)])
    hashes: list[UInt64] = field(default_factory=lambda: [np.empty(0, np.uint64)])
    lengths: list[Offsets] = field(default_factory=lambda: [np.empty(0, np.int64)])
    placements: list[NDArray[np.int8]] = field(default_factory=lambda: [np.empty(0, np.int8)])
    rows: list[NDArray[np.int32]] = field(default_factory=lambda: [np.empty(0, np.int32)])
    wordings: list[NDArray[np.int32]] = field(default_factory=lambda: [np.empty(0, np.int32)])
    questions: list[UInt64] = field(default_factory=lambda: [np.empty(0, np.uint64)])

    def add(self, ngrams: Ngrams, row: int, wording: int, question: int) -> None:
        """Add the n-grams of a wording; `question` is the same for rows that ask the same."""
        normalized, starts, count = ngrams.normalized, ngrams.starts, len(ngrams.starts)
        prefix_lengths = _KNOWN_PREFIXES[np.searchsorted(_KNOWN_PREFIXES, ngrams.lengths, side="right") - 1]
        self.prefixes.append(normalized.hash_ngrams(starts, prefix_lengths))
        self.hashes.append(normalized.hash_ngrams(starts, ngrams.lengths))
        self.lengths.append(ngrams.lengths)
        self.placements.append(np.full(count, ngrams.placement, dtype=np.int8))
        self.rows.append(np.full(count, row, dtype=np.int32))
        self.wordings.append(np.full(count, wording, dtype=np.int32))
        self.questions.append(np.full(count, question, dtype=np.uint64))


@dataclass(frozen=True)
class Match:
    """An n-gram found in a text: its row, and the letters of the text from `start` to `end`."""

    start: int
    end: int
    row: int


class NgramIndex:
    """Finds n-grams in a text.

    An n-gram is looked up by a prefix, whose length is the largest of 6, 10, ... 64 letters that it has, and then
    compared as a whole. There are few lengths, so that each word of a text is hashed only a few times.
    """

    def __init__(self, ngrams: NgramTable) -> None:
        """Index `ngrams`; n-grams that questions share (passages, set phrases) only where a wording has no others."""
        columns = {column.name: np.concatenate(getattr(ngrams, column.name)) for column in fields(ngrams)}
        kept = _find_own(columns["hashes"], columns["questions"], columns["wordings"])
        order = kept[np.argsort(columns["prefixes"][kept], kind="stable")]
        self._prefixes: UInt64 = columns["prefixes"][order]
        self._hashes: UInt64 = columns["hashes"][order]
        self._lengths: Offsets = columns["lengths"][order]
        self._placements: NDArray[np.int8] = columns["placements"][order]
        self._rows: NDArray[np.int32] = columns["rows"][order]
        self._sieve = np.zeros(1 << _SIEVE_BITS, dtype=bool)
        self._sieve[self._prefixes >> _SHIFT] = True

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, normalized: NormalizedText) -> list[Match]:
        """Return every n-gram that occurs in `normalized`, in their order."""
        matches: list[Match] = []
        for prefix in _PREFIX_LETTERS:
            starts = normalized.word_starts
            starts = starts[: np.searchsorted(starts, len(normalized) - prefix, side="right")]
            hashes = normalized.hash_ngrams(starts, prefix)
            chosen = np.flatnonzero(self._sieve[hashes >> _SHIFT])
            matches += self._compare(normalized, starts[chosen], hashes[chosen])
        return sorted(matches, key=lambda one: (one.start, -one.end, one.row))

    def _compare(self, normalized: NormalizedText, starts: Offsets, prefixes: UInt64) -> Iterator[Match]:
        first = np.searchsorted(self._prefixes, prefixes)
        counts = np.searchsorted(self._prefixes, prefixes, side="right") - first
        # every pair of a position in the text and an entry with the same prefix hash, without a loop over positions
        entries = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        starts = np.repeat(starts, counts)
        fits = starts + self._lengths[entries] <= len(normalized)
        entries, starts = entries[fits], starts[fits]
        equal = normalized.hash_ngrams(starts, self._lengths[entries]) == self._hashes[entries]
        for entry, start in zip(entries[equal].tolist(), starts[equal].tolist(), strict=True):
            end = start + int(self._lengths[entry])
            if normalized.ends_word(end) and _is_placed(normalized, start, end, Placement(self._placements[entry])):
                yield Match(start, end, int(self._rows[entry]))


def _find_own(hashes: UInt64, questions: UInt64, wordings: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the n-grams that belong to one question alone, and all n-grams of wordings without such."""
    order = np.argsort(hashes, kind="stable")
    firsts = np.flatnonzero(np.append(True, np.diff(hashes[order]) != 0)[: len(hashes)])  # of groups of equal n-grams
    # the questions of a group are all the same if their minimum is their maximum
    lowest, highest = (extreme.reduceat(questions[order], firsts) for extreme in (np.minimum, np.maximum))
    own = np.empty(len(hashes), dtype=bool)
    own[order] = np.repeat(lowest == highest, np.diff(np.append(firsts, len(hashes))))
    owners = np.bincount(wordings, weights=own)
    found: NDArray[np.int64] = np.flatnonzero(own | (owners[wordings] == 0))
    return found


def _is_placed(normalized: NormalizedText, start: int, end: int, wanted: Placement) -> bool:
    """Return whether the letters from `start` to `end` have the wanted placement in their text."""
    if wanted == Placement.ANYWHERE:
        return True
    text, offsets = normalized.text, normalized.offsets
    first, last = int(offsets[start]), int(offsets[end - 1])
    if start and _STOPS.isdisjoint(text[offsets[start - 1] + 1 : first]):
        return wanted == Placement.SENTENCE and text[first].isupper()
    if end == len(normalized):
        return True
    following = int(offsets[end])
    between = text[last + 1 : following]
    if not _STOPS.isdisjoint(between):
        return True
    is_heading = wanted == Placement.BETWEEN_STOPS and text[first : last + 1].istitle()
    return text[following].isupper() and "(" not in between and not is_heading
