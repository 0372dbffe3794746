"""Finds the questions of evaluation sets in texts and pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megatron_ipt.corpus.decontamination.ngram_index import NgramIndex, NgramTable
from megatron_ipt.corpus.decontamination.ngrams import find_ngrams
from megatron_ipt.corpus.decontamination.normalized_text import NormalizedText
from megatron_ipt.corpus.decontamination.questions import EvalQuestion, name_set, read_questions
from megatron_ipt.errors import UserError


@dataclass(frozen=True)
class Hit:
    """A question of an evaluation set in a text: the set, the row (its id, else its line) and the words they share."""

    eval_set: str
    row: str
    words: str


class Decontaminator:
    """The questions of evaluation sets, to look for in texts and pairs.

    A question is found where `ngram_words` of its consecutive words occur, whatever their case, punctuation and
    spacing; a shorter one where all of it does (see `find_ngrams`). Only 64-bit hashes of it are kept.
    """

    def __init__(self, eval_files: Sequence[Path], ngram_words: int) -> None:
        """Read the questions.

        Raises:
            UserError: there are no questions, or a row holds none.
        """
        self._rows: list[tuple[str, str]] = []
        self._whole_questions: dict[int, int] = {}
        self._wordings = 0
        ngrams = NgramTable()
        for question in read_questions(eval_files):
            self._add(question, ngram_words, ngrams)
        if not self._wordings:
            raise UserError(
                "decontamination.eval_files", ", ".join(map(str, eval_files)), "no rows", "give other files"
            )
        self._index = NgramIndex(ngrams)

    @property
    def questions_of_sets(self) -> dict[str, int]:
        """Return how many questions each evaluation set has."""
        return dict(Counter(name for name, _ in self._rows))

    def find(self, text: str) -> Hit | None:
        """Return the first question found in `text`."""
        return next(iter(self.find_all(text)), None)

    def find_all(self, text: str) -> list[Hit]:
        """Return every question found in `text`, once, in their order."""
        normalized = NormalizedText(text)
        spans: dict[int, tuple[int, int]] = {}
        for one in self._index.find(normalized):
            start, end = spans.get(one.row, (one.start, one.end))
            if one.start <= end:
                spans[one.row] = start, max(end, one.end)
        return [Hit(*self._rows[row], normalized.quote(start, end)) for row, (start, end) in spans.items()]

    def find_in_pair(self, question: str, answer: str) -> Hit | None:
        """Return an evaluation question that is `question` itself, however short, or that occurs in the pair."""
        normalized = NormalizedText(question)
        if len(normalized) and (row := self._whole_questions.get(_hash_whole(normalized))) is not None:
            return Hit(*self._rows[row], question)
        return self.find(f"{question}\n{answer}")

    def _add(self, question: EvalQuestion, ngram_words: int, ngrams: NgramTable) -> None:
        wordings = [normalized for normalized in map(NormalizedText, question.wordings) if len(normalized)]
        row = len(self._rows)
        self._rows.append((name_set(question.file), question.row))
        for normalized in wordings:
            self._whole_questions.setdefault(_hash_whole(normalized), row)
            for found in find_ngrams(normalized, question.options, ngram_words):
                ngrams.add(found, row, self._wordings, question=_hash_whole(max(wordings, key=len)))
            self._wordings += 1


def _hash_whole(normalized: NormalizedText) -> int:
    return int(normalized.hash_ngrams(np.array([0]), len(normalized))[0])
