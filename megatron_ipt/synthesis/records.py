"""What the synthesis keeps of each chain, from the engine's answers to the finished corpus: one JSON row a chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from megatron_ipt.synthesis.engines.engine import Failure
from megatron_ipt.synthesis.grammar import Example, Pair


@dataclass(frozen=True)
class DroppedPair:
    """A pair that was well formed and that a gate did not let pass."""

    pair: Pair
    reason: str


@dataclass(frozen=True)
class TextRecord:
    """One raw text (or a piece of a long one) with what the synthesizer wrote about it.

    `answer_gains` holds, for each pair, the log-likelihood per answer token with the text less that without, in nats,
    where it was asked for. `drops` counts pieces of the output that were no valid pair, by reason. `rephrasing` is
    empty where there is none, and `rephrasing_drop` says why one that was wanted is not there. `failure` says why a
    prompt about this text, for pairs or for a rephrasing, has no answer.
    """

    id: str
    text: str
    pairs: tuple[Pair, ...] = ()
    answer_gains: tuple[float, ...] = ()
    dropped: tuple[DroppedPair, ...] = ()
    drops: Mapping[str, int] = field(default_factory=dict)
    rephrasing: str = ""
    rephrasing_drop: str | None = None
    prompt_tokens: int = 0
    generated_tokens: int = 0
    was_cut: bool = False
    failure: Failure | None = None

    @property
    def example(self) -> Example:
        """The text with its pairs, as prompts and documents show it."""
        return Example(self.text, self.pairs)

    def drop(self, pair: Pair, reason: str) -> TextRecord:
        """Without `pair`, which `reason` kept from passing."""
        place = self.pairs.index(pair)
        return replace(
            self,
            pairs=self.pairs[:place] + self.pairs[place + 1 :],
            answer_gains=self.answer_gains[:place] + self.answer_gains[place + 1 :],
            dropped=(*self.dropped, DroppedPair(pair, reason)),
        )


@dataclass(frozen=True)
class ChainRecord:
    """The texts of one document; one that is not augmented holds a single text as it was read."""

    augmented: bool
    texts: tuple[TextRecord, ...]

    @property
    def id(self) -> str:
        """The id of the document: that of its first text."""
        return self.texts[0].id

    @property
    def failures(self) -> list[tuple[str, Failure]]:
        """The ids of texts of this chain that have no answer, and why."""
        return [(text.id, text.failure) for text in self.texts if text.failure is not None]

    def to_row(self) -> dict[str, Any]:
        """Plain values for a line of JSON."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> ChainRecord:
        """What `to_row` gave."""
        return cls(row["augmented"], tuple(_text_record(text) for text in row["texts"]))


def _text_record(row: Mapping[str, Any]) -> TextRecord:
    lists = {
        "pairs": tuple(Pair(**pair) for pair in row["pairs"]),
        "answer_gains": tuple(row["answer_gains"]),
        "dropped": tuple(DroppedPair(Pair(**one["pair"]), one["reason"]) for one in row["dropped"]),
    }
    failure = None if row["failure"] is None else Failure(**row["failure"])
    return TextRecord(**{**row, **lists, "failure": failure})
