"""Finding the questions of evaluation sets in texts and pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megatron_ipt.corpus.decontamination.letters import Letters
from megatron_ipt.corpus.decontamination.questions import EvalQuestion, name_set, read_questions
from megatron_ipt.corpus.decontamination.run_index import RunIndex, RunList
from megatron_ipt.corpus.decontamination.wording import find_runs
from megatron_ipt.errors import UserError

_LEAST_NGRAM_WORDS = 5


@dataclass(frozen=True)
class Hit:
    """A question of an evaluation set in a text: the set, the row (its id, else its line) and the words they share."""

    eval_set: str
    row: str
    words: str


class Decontaminator:
    """The questions of evaluation sets, to be looked for in texts and pairs.

    A question counts as met where `ngram_words` of its words in a row stand, whatever their case, punctuation and
    spacing; a shorter one where all of it does (see `find_runs`). Known by 64-bit hashes only.
    """

    def __init__(self, eval_files: Sequence[Path], ngram_words: int) -> None:
        """Read the questions.

        Raises:
            UserError: `ngram_words` is below 5, there are no questions, or a row holds none.
        """
        if ngram_words < _LEAST_NGRAM_WORDS:
            reason = "so few words in a row stand in any text"
            raise UserError("decontamination.ngram_words", ngram_words, reason, f"give {_LEAST_NGRAM_WORDS} or more")
        self._rows: list[tuple[str, str]] = []
        self._wholes: dict[int, int] = {}
        self._wordings = 0
        runs = RunList()
        for question in read_questions(eval_files):
            self._add(question, ngram_words, runs)
        if not self._wordings:
            raise UserError(
                "decontamination.eval_files", ", ".join(map(str, eval_files)), "no rows", "name other files"
            )
        self._index = RunIndex(runs)

    @property
    def questions_of_sets(self) -> dict[str, int]:
        """How many questions each evaluation set has."""
        return dict(Counter(name for name, _ in self._rows))

    def find(self, text: str) -> Hit | None:
        """The first question met in `text`."""
        return next(iter(self.find_all(text)), None)

    def find_all(self, text: str) -> list[Hit]:
        """Every question met in `text`, once, in their order."""
        letters = Letters(text)
        spans: dict[int, tuple[int, int]] = {}
        for one in self._index.find(letters):
            start, end = spans.get(one.row, (one.start, one.end))
            if one.start <= end:
                spans[one.row] = start, max(end, one.end)
        return [Hit(*self._rows[row], letters.quote(start, end)) for row, (start, end) in spans.items()]

    def find_in_pair(self, question: str, answer: str) -> Hit | None:
        """A question of an evaluation set that is `question` itself, however short, or that stands in the pair."""
        letters = Letters(question)
        if len(letters) and (row := self._wholes.get(_hash_whole(letters))) is not None:
            return Hit(*self._rows[row], question)
        return self.find(f"{question}\n{answer}")

    def _add(self, question: EvalQuestion, ngram_words: int, runs: RunList) -> None:
        wordings = [letters for letters in map(Letters, question.wordings) if len(letters)]
        row = len(self._rows)
        self._rows.append((name_set(question.file), question.row))
        for letters in wordings:
            self._wholes.setdefault(_hash_whole(letters), row)
            for found in find_runs(letters, question.options, ngram_words):
                runs.add(found, row, self._wordings, question=_hash_whole(max(wordings, key=len)))
            self._wordings += 1


def _hash_whole(letters: Letters) -> int:
    return int(letters.hash_runs(np.array([0]), len(letters))[0])
