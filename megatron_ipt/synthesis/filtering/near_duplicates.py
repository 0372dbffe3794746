"""Pairs that resemble an earlier pair of the corpus: candidates by MinHash, compared by their true similarity."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megatron_ipt.pairs.grammar import Pair

REASON = "near-duplicate"
_MAX_LOOKS_BACK = 8

Flags = NDArray[np.bool_]
Candidate = tuple[int, int]


class NearDuplicates:
    """The search over a corpus of several files; its state is on disk, about a kilobyte per pair while it runs.

    Each file's pairs are signed (by any worker), then matched in one place, then asked for by file. The similarity of
    two pairs is that of their sets of two-word n-grams in question and answer (Jaccard).
    """

    def __init__(self, folder: Path, similarity: float) -> None:
        """Prepare the search in `folder`; nothing is read or written yet."""
        self._folder, self._similarity = folder, similarity

    def sign(self, file_number: int, pairs: Iterable[Pair]) -> None:
        """Write the signatures of the pairs of one file, in their order; calling it again replaces them."""
        from megatron_ipt.synthesis.filtering.minhash import choose_config, write_signatures

        texts = (f"{pair.question}\n{pair.answer}" for pair in pairs)
        write_signatures(self._folder, choose_config(self._similarity), file_number, texts)

    def match(self, files: int) -> None:
        """Find the near-duplicates among the pairs of files 0 to `files` - 1, all of them signed."""
        from megatron_ipt.synthesis.filtering.minhash import choose_config, write_candidates

        ngrams = _Ngrams(self._folder)
        found = [np.zeros(ngrams.count(number), dtype=bool) for number in range(files)]
        for candidates in write_candidates(self._folder, choose_config(self._similarity)):
            self._drop_similar(candidates.tolist(), ngrams, found)
        for number, flags in enumerate(found):
            np.save(self._flags_file(number), flags)

    def flags(self, file_number: int) -> Flags:
        """Return for each pair of the file, in its order, whether it resembles an earlier one."""
        flags: Flags = np.load(self._flags_file(file_number))
        return flags

    def _drop_similar(self, candidates: list[list[int]], ngrams: _Ngrams, found: list[Flags]) -> None:
        earlier: dict[Candidate, Candidate] = {}
        for file, number, own_file, own_number in candidates:
            own = own_file, own_number
            earlier[own] = other = file, number
            # a bucket lists each pair with its predecessor only: follow the links to earlier pairs, for a bounded time
            for _ in range(_MAX_LOOKS_BACK):
                if found[own_file][own_number]:
                    break
                found[own_file][own_number] = ngrams.similarity(own, other) >= self._similarity
                if other not in earlier:
                    break
                other = earlier[other]

    def _flags_file(self, file_number: int) -> Path:
        return self._folder / f"near-duplicates-{file_number:05d}.npy"


class _Ngrams:
    """The word n-grams of every pair, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._of_file = lru_cache(maxsize=None)(self._read)

    def count(self, file_number: int) -> int:
        return len(self._of_file(file_number)[1]) - 1

    def similarity(self, one: Candidate, other: Candidate) -> float:
        mine, theirs = self._of_pair(one), self._of_pair(other)
        shared = len(np.intersect1d(mine, theirs, assume_unique=True))
        return shared / (len(mine) + len(theirs) - shared)

    def _of_pair(self, pair: Candidate) -> NDArray[np.uint32]:
        values, ends = self._of_file(pair[0])
        return values[ends[pair[1]] : ends[pair[1] + 1]]

    def _read(self, file_number: int) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        from megatron_ipt.synthesis.filtering.minhash import counts_file, ngrams_file

        counts = np.fromfile(counts_file(self._folder, file_number), dtype="<u4")
        file = ngrams_file(self._folder, file_number)
        values = np.memmap(file, dtype="<u4", mode="r") if file.stat().st_size else np.empty(0, dtype="<u4")
        return values, np.append(0, np.cumsum(counts, dtype=np.int64))


def find_near_duplicates(pairs: Iterable[Pair], similarity: float, work_folder: Path) -> Flags:
    """Return for each of `pairs` whether it resembles an earlier one; `work_folder` is removed at the end."""
    search = NearDuplicates(work_folder, similarity)
    try:
        search.sign(0, pairs)
        search.match(files=1)
        return search.flags(0)
    finally:
        shutil.rmtree(work_folder, ignore_errors=True)
