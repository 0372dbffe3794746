"""datatrove's MinHash: writes signatures of pairs to disk, and finds the pairs that share a bucket.

datatrove's steps are used unchanged, with each worker on its own file; its executors, clustering and filter are not
needed (docs/adr/0013).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets, MinhashDedupSignature
from datatrove.utils.hashing import HashConfig
from datatrove.utils.text import TextNormConfig
from datatrove.utils.word_tokenizers import WordTokenizer
from loguru import logger
from numpy.typing import NDArray

NGRAM_WORDS = 2
_MAX_HASHES = 128
_MAX_HASHES_PER_BUCKET = 16
_MIN_RECALL = 0.99


class _SpacedWords(WordTokenizer):
    """Words separated by spaces, after datatrove has removed case, accents and punctuation."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        return [text]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


class _RecordedShingles(MinhashDedupSignature):
    """Signatures, and the set of word n-grams that each was made of, which the true similarity needs."""

    def __init__(self, folder: Path, config: MinhashConfig, ngrams: BinaryIO, counts: BinaryIO) -> None:
        super().__init__(str(folder), config=config, language=_SpacedWords())
        self._ngrams, self._counts = ngrams, counts

    def get_shingles(self, text: str) -> NDArray[np.uint64]:
        shingles: NDArray[np.uint64] = super().get_shingles(text)
        distinct = np.unique(shingles).astype("<u4")
        self._ngrams.write(distinct.tobytes())
        self._counts.write(np.uint32(len(distinct)).astype("<u4").tobytes())
        return shingles


def choose_config(similarity: float) -> MinhashConfig:
    """Divide 128 hashes into buckets: the largest ones that still find 99% of the pairs with exactly this similarity.

    Two pairs of similarity s share a bucket of n hashes with probability s^n, and one of b buckets with
    1 - (1 - s^n)^b. Larger buckets give fewer false candidates.
    """
    per_bucket = max(
        (
            count
            for count in range(1, _MAX_HASHES_PER_BUCKET + 1)
            if 1 - (1 - similarity**count) ** (_MAX_HASHES // count) >= _MIN_RECALL
        ),
        default=1,
    )
    return MinhashConfig(
        n_grams=NGRAM_WORDS,
        num_buckets=_MAX_HASHES // per_bucket,
        hashes_per_bucket=per_bucket,
        norm_config=TextNormConfig(norm_numbers=False, norm_weekdays=False, norm_monthnames=False),
        hash_config=HashConfig(precision=32, hash_fc="sha1"),
    )


def write_signatures(folder: Path, config: MinhashConfig, file_number: int, texts: Iterable[str]) -> None:
    """Write the signatures of the texts of one file, and their word n-grams."""
    folder.mkdir(parents=True, exist_ok=True)
    documents = (Document(text=text, id="") for text in texts)
    with (
        ngrams_file(folder, file_number).open("wb") as ngrams,
        counts_file(folder, file_number).open("wb") as counts,
        _quiet(),
    ):
        _RecordedShingles(folder / "signatures", config, ngrams, counts).run(documents, rank=file_number)


def write_candidates(folder: Path, config: MinhashConfig) -> Iterator[NDArray[np.uint32]]:
    """Yield, for each bucket, the pairs that share it, (candidates, 4): file and number of the earlier and later pair.

    Each pair is listed with the previous pair in its bucket only.
    """
    signatures, candidates = str(folder / "signatures"), folder / "candidates"
    for bucket in range(config.num_buckets):
        with _quiet():
            step = MinhashDedupBuckets(signatures, str(candidates), config=config)
            step.run(None, rank=bucket, world_size=config.num_buckets)
        yield np.fromfile(candidates / f"{bucket:05d}_00.dups", dtype="<u4").reshape(-1, 4)


def ngrams_file(folder: Path, file_number: int) -> Path:
    """Return the file with the hashes of the word n-grams of all pairs of an input file, sorted within each pair."""
    return folder / f"sequences-{file_number:05d}.u4"


def counts_file(folder: Path, file_number: int) -> Path:
    """Return the file with the number of distinct word n-grams of each pair of an input file."""
    return folder / f"counts-{file_number:05d}.u4"


@contextmanager
def _quiet() -> Iterator[None]:
    logger.disable("datatrove")
    try:
        yield
    finally:
        logger.enable("datatrove")
