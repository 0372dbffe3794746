"""The rows of answers.MODEL.jsonl and pairs.MODEL.jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class AnswerRow:
    """A question with its reference and the model's answer; `trouble` is the reason if there is none."""

    id: str
    set: str
    question: str
    reference: str
    answer: str = ""
    f1: float = 0.0
    exact: bool = False
    finished: bool = False
    text_was_cut: bool = False
    generated_tokens: int = 0
    trouble: str | None = None


@dataclass(frozen=True)
class PairsRow:
    """The valid pairs that the model wrote about a context, and other pieces of its output by reason.

    `grounded` holds for each pair the share of the answer's words that occur in the context, None if not measured.
    """

    id: str
    set: str
    pairs: list[dict[str, str]] = field(default_factory=list)
    grounded: list[float | None] = field(default_factory=list)
    drops: Mapping[str, int] = field(default_factory=dict)
    text_was_cut: bool = False
    generated_tokens: int = 0
