"""Runs of letters by their hashes, looked up at every word of a text at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from megatron_ipt.corpus.decontamination.letters import Letters, Offsets, UInt64
from megatron_ipt.corpus.decontamination.wording import Runs, Standing

_PREFIX_LETTERS = (6, 10, 16, 24, 36, 48, 64)
_KNOWN_PREFIXES = np.array(_PREFIX_LETTERS)
_SIEVE_BITS = 24
_SHIFT = np.uint64(64 - _SIEVE_BITS)
_STOPS = frozenset("\n.?!:;…")


@dataclass
class RunList:
    """What is known of each run: columns, a piece for each wording."""

    prefixes: list[UInt64] = field(default_factory=lambda: [np.empty(0, np.uint64)])
    hashes: list[UInt64] = field(default_factory=lambda: [np.empty(0, np.uint64)])
    lengths: list[Offsets] = field(default_factory=lambda: [np.empty(0, np.int64)])
    standings: list[NDArray[np.int8]] = field(default_factory=lambda: [np.empty(0, np.int8)])
    rows: list[NDArray[np.int32]] = field(default_factory=lambda: [np.empty(0, np.int32)])
    wordings: list[NDArray[np.int32]] = field(default_factory=lambda: [np.empty(0, np.int32)])
    questions: list[UInt64] = field(default_factory=lambda: [np.empty(0, np.uint64)])

    def add(self, runs: Runs, row: int, wording: int, question: int) -> None:
        """Add the runs of a wording; `question` is the same for rows that ask the same."""
        letters, starts, count = runs.letters, runs.starts, len(runs.starts)
        prefix_lengths = _KNOWN_PREFIXES[np.searchsorted(_KNOWN_PREFIXES, runs.lengths, side="right") - 1]
        self.prefixes.append(letters.hash_runs(starts, prefix_lengths))
        self.hashes.append(letters.hash_runs(starts, runs.lengths))
        self.lengths.append(runs.lengths)
        self.standings.append(np.full(count, runs.standing, dtype=np.int8))
        self.rows.append(np.full(count, row, dtype=np.int32))
        self.wordings.append(np.full(count, wording, dtype=np.int32))
        self.questions.append(np.full(count, question, dtype=np.uint64))


@dataclass(frozen=True)
class Meeting:
    """A run met in a text: its row, and the letters of the text from `start` to `end`."""

    start: int
    end: int
    row: int


class RunIndex:
    """Where runs stand in a text.

    A run is looked up by its first letters, as many of 6, 10, ... 64 as it has, then by all of them.
    """

    def __init__(self, runs: RunList) -> None:
        """A run that questions share is a passage or a set phrase, and stands for one only if nothing else does."""
        columns = {column.name: np.concatenate(getattr(runs, column.name)) for column in fields(runs)}
        kept = _find_own(columns["hashes"], columns["questions"], columns["wordings"])
        order = kept[np.argsort(columns["prefixes"][kept], kind="stable")]
        self._prefixes: UInt64 = columns["prefixes"][order]
        self._hashes: UInt64 = columns["hashes"][order]
        self._lengths: Offsets = columns["lengths"][order]
        self._standings: NDArray[np.int8] = columns["standings"][order]
        self._rows: NDArray[np.int32] = columns["rows"][order]
        self._sieve = np.zeros(1 << _SIEVE_BITS, dtype=bool)
        self._sieve[self._prefixes >> _SHIFT] = True

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, letters: Letters) -> list[Meeting]:
        """Every run that stands in `letters`, in their order."""
        met: list[Meeting] = []
        for prefix in _PREFIX_LETTERS:
            starts = letters.word_starts
            starts = starts[: np.searchsorted(starts, len(letters) - prefix, side="right")]
            hashes = letters.hash_runs(starts, prefix)
            chosen = np.flatnonzero(self._sieve[hashes >> _SHIFT])
            met += self._compare(letters, starts[chosen], hashes[chosen])
        return sorted(met, key=lambda one: (one.start, -one.end, one.row))

    def _compare(self, letters: Letters, starts: Offsets, prefixes: UInt64) -> Iterator[Meeting]:
        first = np.searchsorted(self._prefixes, prefixes)
        counts = np.searchsorted(self._prefixes, prefixes, side="right") - first
        entries = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        starts = np.repeat(starts, counts)
        fits = starts + self._lengths[entries] <= len(letters)
        entries, starts = entries[fits], starts[fits]
        equal = letters.hash_runs(starts, self._lengths[entries]) == self._hashes[entries]
        for entry, start in zip(entries[equal].tolist(), starts[equal].tolist(), strict=True):
            end = start + int(self._lengths[entry])
            if letters.ends_word(end) and _stands(letters, start, end, Standing(self._standings[entry])):
                yield Meeting(start, end, int(self._rows[entry]))


def _find_own(hashes: UInt64, questions: UInt64, wordings: NDArray[np.int32]) -> NDArray[np.int64]:
    """The runs that belong to one question alone, and all of a wording that has none of these."""
    order = np.argsort(hashes, kind="stable")
    firsts = np.flatnonzero(np.append(True, np.diff(hashes[order]) != 0)[: len(hashes)])
    lowest, highest = (extreme.reduceat(questions[order], firsts) for extreme in (np.minimum, np.maximum))
    own = np.empty(len(hashes), dtype=bool)
    own[order] = np.repeat(lowest == highest, np.diff(np.append(firsts, len(hashes))))
    owners = np.bincount(wordings, weights=own)
    found: NDArray[np.int64] = np.flatnonzero(own | (owners[wordings] == 0))
    return found


def _stands(letters: Letters, start: int, end: int, wanted: Standing) -> bool:
    """Whether the letters from `start` to `end` stand in their text as `wanted`."""
    if wanted == Standing.ANYWHERE:
        return True
    text, places = letters.text, letters.places
    first, last = int(places[start]), int(places[end - 1])
    if start and _STOPS.isdisjoint(text[places[start - 1] + 1 : first]):
        return wanted == Standing.APART and text[first].isupper()
    if end == len(letters):
        return True
    following = int(places[end])
    between = text[last + 1 : following]
    if not _STOPS.isdisjoint(between):
        return True
    is_heading = wanted == Standing.ALONE and text[first : last + 1].istitle()
    return text[following].isupper() and "(" not in between and not is_heading
