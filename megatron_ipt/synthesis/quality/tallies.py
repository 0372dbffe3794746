"""Counts of texts and pairs; each tally has few keys, whatever the size of the corpus."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from megatron_ipt.pairs.formats import format_of
from megatron_ipt.pairs.grammar import Pair
from megatron_ipt.pairs.words import split_words
from megatron_ipt.reporting.quality_rows import GAIN_BOUNDS, GAIN_STEPS
from megatron_ipt.synthesis.filtering.grounding import find_grounded_share
from megatron_ipt.synthesis.quality.categories import find_category
from megatron_ipt.synthesis.quality.lengths import count_words, round_words
from megatron_ipt.synthesis.records import ChainRecord, TextRecord

_MAX_PAIRS = 50


@dataclass
class Tallies:
    """Integer counts, so that sums are exact and do not depend on their order.

    `totals` are sums; `categories` counts `CATEGORY|FORMAT`, `contamination` counts `text|EVALUATION SET` and
    `pair|EVALUATION SET`; `grounded` counts pairs by tenths of the answer that occur in the text, `gains` by steps
    of the answer's gain; `prompts` are the sums for fitting a line to words and prompt tokens.
    """

    totals: Counter[str] = field(default_factory=Counter)
    pairs_a_text: Counter[int] = field(default_factory=Counter)
    text_words: Counter[int] = field(default_factory=Counter)
    question_words: Counter[int] = field(default_factory=Counter)
    answer_words: Counter[int] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)
    parsing_drops: Counter[str] = field(default_factory=Counter)
    gate_drops: Counter[str] = field(default_factory=Counter)
    contamination: Counter[str] = field(default_factory=Counter)
    grounded: Counter[int] = field(default_factory=Counter)
    gains: Counter[int] = field(default_factory=Counter)
    prompts: Counter[str] = field(default_factory=Counter)

    def count(self, record: ChainRecord, mode: str) -> None:
        """Count a document and, where it is augmented, its texts and their pairs."""
        self.totals["documents"] += 1
        self.totals["texts"] += len(record.texts)
        self.modes[mode] += 1
        if record.augmented:
            self._fit(record.texts[0])
            for text in record.texts:
                self._count_text(text)

    def merge(self, other: Tallies) -> None:
        """Add the counts of `other`."""
        for one in fields(self):
            getattr(self, one.name).update(getattr(other, one.name))

    def to_row(self) -> dict[str, Any]:
        """Return plain values for JSON, in the order of the keys."""
        return {one.name: sorted(getattr(self, one.name).items()) for one in fields(self)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Tallies:
        """Restore the result of `to_row`."""
        return cls(**{name: Counter(dict(items)) for name, items in row.items()})

    def _fit(self, text: TextRecord) -> None:
        """Count a chain's first text, whose prompt contains no other text."""
        if not text.was_cut:
            words, tokens = count_words(text.text), text.prompt_tokens
            sums = {"texts": 1, "words": words, "tokens": tokens, "words²": words**2, "words·tokens": words * tokens}
            self.prompts.update(sums)

    def _count_text(self, text: TextRecord) -> None:
        words = count_words(text.text)
        sums = {
            "augmented": 1,
            "cut": text.was_cut,
            "pairs": len(text.pairs),
            "words": words,
            "prompt_tokens": text.prompt_tokens,
            "generated_tokens": text.generated_tokens,
        }
        self.totals.update(sums)
        self.text_words[round_words(words)] += 1
        self.pairs_a_text[min(len(text.pairs), _MAX_PAIRS)] += 1
        for reason, count in text.drops.items():
            self.parsing_drops[reason.partition(":")[0]] += count
        self.gate_drops.update(dropped.reason for dropped in text.dropped)
        text_words = frozenset(split_words(text.text))
        for pair in text.pairs:
            self._count_pair(pair, text_words)
        for gain in text.answer_gains:
            self._count_gain(gain)

    def _count_pair(self, pair: Pair, text_words: frozenset[str]) -> None:
        question, format_name = pair.stem, format_of(pair)
        lengths = {"question_words": count_words(question), "answer_words": count_words(pair.answer)}
        self.totals.update(lengths)
        self.question_words[round_words(lengths["question_words"])] += 1
        self.answer_words[round_words(lengths["answer_words"])] += 1
        self.formats[format_name] += 1
        self.categories[f"{find_category(question, pair.answer, pair.options)}|{format_name}"] += 1
        if (share := find_grounded_share(pair, text_words)) is not None:
            self.grounded[int(10 * share)] += 1
            self.totals["grounded_thousandths"] += round(1000 * share)

    def _count_gain(self, gain: float) -> None:
        lowest, highest = GAIN_BOUNDS
        self.gains[max(lowest, min(math.floor(GAIN_STEPS * gain), highest))] += 1
        self.totals["gain_thousandths"] += round(1000 * gain)
