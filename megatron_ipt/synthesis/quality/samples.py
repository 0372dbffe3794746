"""Samples of texts and pairs, chosen by hash of seed and id, so that they do not depend on how the corpus is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from megatron_ipt.corpus.stable_hash import stable_hash
from megatron_ipt.pairs.words import split_words
from megatron_ipt.synthesis.filtering.grounding import find_grounded_share
from megatron_ipt.synthesis.quality.bottom_k import BottomK, add_up
from megatron_ipt.synthesis.records import TextRecord

_TEXTS_SHOWN = 12
_DROPPED_SHOWN = 3  # of each reason
_PAIRS_READ = 10_000
_QUESTIONS_FOLLOWED = 5_000
_TEXT_CHARACTERS, _QUESTION_CHARACTERS, _ANSWER_CHARACTERS = 4000, 160, 120


class Samples:
    """Texts to show, pairs for statistics of words, questions whose repetitions are counted.

    Pairs are a uniform sample of all pairs. Questions are a uniform sample of the distinct ones, each with its count in
    the whole corpus.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.texts = BottomK(_TEXTS_SHOWN)
        self.dropped: dict[str, BottomK] = {}
        self.pairs = BottomK(_PAIRS_READ)
        self.questions = BottomK(_QUESTIONS_FOLLOWED, add_up)

    def add(self, text: TextRecord, mode: str) -> None:
        """Add an augmented text and its pairs, where their hashes are small enough."""
        if self.texts.takes(key := stable_hash(self._seed, "text", text.id)):
            self.texts.add(key, _text_row(text, mode))
        for pair in text.pairs:
            question = pair.stem
            if self.pairs.takes(key := stable_hash(self._seed, "pair", text.id, pair.question)):
                self.pairs.add(key, [question[:_QUESTION_CHARACTERS], pair.answer[:_ANSWER_CHARACTERS]])
            self.questions.add(stable_hash(self._seed, "question", normalize_phrase(question)), 1)
        for dropped in text.dropped:
            chosen = self._dropped_for(dropped.reason)
            if chosen.takes(key := stable_hash(self._seed, "dropped", text.id, dropped.pair.question)):
                chosen.add(key, {"id": text.id, "text": _cut(text.text, _TEXT_CHARACTERS), **asdict(dropped.pair)})

    def merge(self, other: Samples) -> None:
        """Add the samples of `other`."""
        self.texts.merge(other.texts)
        self.pairs.merge(other.pairs)
        self.questions.merge(other.questions)
        for reason, chosen in other.dropped.items():
            self._dropped_for(reason).merge(chosen)

    def to_row(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "texts": self.texts.to_rows(),
            "dropped": {reason: self.dropped[reason].to_rows() for reason in sorted(self.dropped)},
            "pairs": self.pairs.to_rows(),
            "questions": self.questions.to_rows(),
        }

    @classmethod
    def from_row(cls, seed: int, row: Mapping[str, Any]) -> Samples:
        """Restore the result of `to_row`."""
        samples = cls(seed)
        samples.texts.add_rows(row["texts"])
        samples.pairs.add_rows(row["pairs"])
        samples.questions.add_rows(row["questions"])
        for reason, rows in row["dropped"].items():
            samples._dropped_for(reason).add_rows(rows)
        return samples

    def _dropped_for(self, reason: str) -> BottomK:
        return self.dropped.setdefault(reason, BottomK(_DROPPED_SHOWN))


def normalize_phrase(phrase: str) -> str:
    """Drop case, outer punctuation and the differences in white space: phrases that are then equal count as one."""
    return " ".join(phrase.casefold().split()).strip(" .?!")


def _text_row(text: TextRecord, mode: str) -> dict[str, Any]:
    words = frozenset(split_words(text.text))
    return {
        "id": text.id,
        "mode": mode,
        "text": _cut(text.text, _TEXT_CHARACTERS),
        "pairs": [{**asdict(pair), "grounded": find_grounded_share(pair, words)} for pair in text.pairs],
        "dropped": [{**asdict(dropped.pair), "reason": dropped.reason} for dropped in text.dropped],
        "drops": dict(sorted(text.drops.items())),
    }


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[:characters] + " …"
