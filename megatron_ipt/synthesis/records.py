"""The record of each chain, from the engine's answers to the finished corpus: one JSON row per chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from megatron_ipt.corpus.manifest import JsonObject
from megatron_ipt.lm.engine import Failure
from megatron_ipt.pairs.grammar import Example, Pair


@dataclass(frozen=True)
class DroppedPair:
    """A well-formed pair that a gate rejected, and the reason."""

    pair: Pair
    reason: str


@dataclass(frozen=True)
class TextRecord:
    """One raw text (or a piece of a long one) with the output of the synthesizer.

    `answer_gains` holds, for each pair, the log-likelihood per answer token with the text minus that without it, in
    nats; it is empty unless requested. `drops` counts the pieces of output that were no valid pair, by reason.
    `rephrasing` is empty if there is none, and `rephrasing_drop` is the reason why a requested one was dropped.
    `failure` is the reason why a prompt about this text, for pairs or for a rephrasing, has no answer.
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
        """Return the record without `pair`, which a gate rejected for `reason`."""
        index = self.pairs.index(pair)
        return replace(
            self,
            pairs=self.pairs[:index] + self.pairs[index + 1 :],
            answer_gains=self.answer_gains[:index] + self.answer_gains[index + 1 :],
            dropped=(*self.dropped, DroppedPair(pair, reason)),
        )


@dataclass(frozen=True)
class ChainRecord:
    """The texts of one document; a chain that is not augmented holds a single text, unchanged."""

    augmented: bool
    texts: tuple[TextRecord, ...]

    @property
    def id(self) -> str:
        """The id of the document: that of its first text."""
        return self.texts[0].id

    @property
    def failures(self) -> list[tuple[str, Failure]]:
        """The ids of the texts of this chain that have no answer, and the reasons."""
        return [(text.id, text.failure) for text in self.texts if text.failure is not None]

    def to_row(self) -> JsonObject:
        """Return plain values for a line of JSON."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: JsonObject) -> ChainRecord:
        """Restore the result of `to_row`."""
        return cls(row["augmented"], tuple(_text_record(text) for text in row["texts"]))


def _text_record(row: JsonObject) -> TextRecord:
    lists = {
        "pairs": tuple(Pair(**pair) for pair in row["pairs"]),
        "answer_gains": tuple(row["answer_gains"]),
        "dropped": tuple(DroppedPair(Pair(**one["pair"]), one["reason"]) for one in row["dropped"]),
    }
    failure = None if row["failure"] is None else Failure(**row["failure"])
    return TextRecord(**{**row, **lists, "failure": failure})
