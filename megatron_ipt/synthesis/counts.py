"""Counts of a synthesis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from megatron_ipt.corpus.manifest import JsonObject
from megatron_ipt.synthesis.records import ChainRecord, TextRecord

_REASONS = ("drops", "rephrasing_drops")


@dataclass
class Counts:
    """Sums over the texts of a corpus; `drops` counts dropped pairs and pieces of output by reason."""

    texts: int = 0
    documents: int = 0
    augmented_texts: int = 0
    texts_without_pairs: int = 0
    pairs: int = 0
    texts_cut: int = 0
    texts_refused: int = 0
    rephrasings: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    rephrasing_drops: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, records: Iterable[ChainRecord]) -> Counts:
        """Sum over some chains."""
        counts = cls()
        for record in records:
            counts.documents += 1
            if record.augmented:
                for text in record.texts:
                    counts.add_text(text)
            else:
                counts.texts += len(record.texts)
        return counts

    def add_text(self, text: TextRecord) -> None:
        """Add one augmented text."""
        self.texts += 1
        self.augmented_texts += 1
        self.texts_without_pairs += not text.pairs
        self.texts_refused += text.failure is not None
        self.pairs += len(text.pairs)
        self.texts_cut += text.was_cut
        self.prompt_tokens += text.prompt_tokens
        self.generated_tokens += text.generated_tokens
        self.rephrasings += bool(text.rephrasing and text.pairs)
        self.rephrasing_drops.update([text.rephrasing_drop] if text.rephrasing_drop else [])
        self.drops.update(text.drops)
        self.drops.update(dropped.reason for dropped in text.dropped)

    def add(self, other: Counts) -> None:
        """Add the counts of another part of the corpus."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def to_dict(self) -> dict[str, int | dict[str, int]]:
        """Return plain values for JSON, with the reasons in alphabetical order."""
        return {name: dict(sorted(value.items())) if name in _REASONS else value for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, values: JsonObject) -> Counts:
        """Restore the result of `to_dict`."""
        return cls(**{**values, **{name: Counter(values[name]) for name in _REASONS}})
