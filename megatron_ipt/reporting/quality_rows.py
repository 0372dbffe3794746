"""The content of the quality report's report.json: counts, shares of 1 and lengths in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GAIN_STEPS = 2
"""Histogram bins of an answer's gain per nat."""
GAIN_BOUNDS = (-4, 16)
"""The lowest and highest bin; gains beyond them are counted in these bins."""


@dataclass(frozen=True)
class Lengths:
    """Lengths in words, None without data; `counts` are by length."""

    mean: float | None
    median: int | None
    p95: int | None
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Texts:
    """Texts of all documents; `pairs` are texts by their number of pairs, shares are of the augmented texts."""

    documents: int
    count: int
    augmented: int
    with_a_pair: int
    with_two_pairs: int
    share_with_a_pair: float | None
    share_with_two_pairs: float | None
    cut: int
    pairs: Mapping[str, int]
    words: Lengths


@dataclass(frozen=True)
class Pairs:
    """Pairs that were kept; `per_text` is the mean per augmented text."""

    count: int
    per_text: float | None
    question_words: Lengths
    answer_words: Lengths


@dataclass(frozen=True)
class Drop:
    """Pieces dropped for one reason, and their share of all pieces."""

    count: int
    share: float


@dataclass(frozen=True)
class Drops:
    """Pieces of the synthesizer's output that were dropped, by reason."""

    pieces: int
    share: float | None
    parsing: Mapping[str, Drop]
    gates: Mapping[str, Drop]


@dataclass(frozen=True)
class FirstWord:
    """Questions that begin with a word, and the words that follow it most often."""

    count: int
    then: Mapping[str, int]


@dataclass(frozen=True)
class FirstWords:
    """The most frequent first words of sampled questions."""

    sampled_pairs: int
    counts: Mapping[str, FirstWord]


@dataclass(frozen=True)
class Groundedness:
    """Words of answers that occur in their texts; `tenths` are pairs by tenths of that share."""

    pairs: int
    mean_share: float | None
    share_fully_grounded: float | None
    tenths: Mapping[str, int]


@dataclass(frozen=True)
class AnswerGain:
    """Log-likelihood per token of answers with their text minus that without; `nats` are pairs by gain."""

    pairs: int
    mean_nats: float
    share_without_gain: float
    nats: Mapping[str, int]


@dataclass(frozen=True)
class Repetition:
    """Questions asked more than once, and the most frequent questions and answers of the sampled pairs."""

    different_questions: int
    share_asked_before: float | None
    questions_followed: int
    sampled_pairs: int
    questions: Mapping[str, int]
    answers: Mapping[str, int]


@dataclass(frozen=True)
class Contamination:
    """Texts and pairs left out because of one evaluation set."""

    text: int
    pair: int


@dataclass(frozen=True)
class Tokens:
    """Tokens of prompts and outputs; `per_word` and `raw` (of the augmented texts) are estimates."""

    prompt: int
    generated: int
    generated_per_pair: float | None
    per_word: float | None
    raw: int | None


@dataclass(frozen=True)
class SamplePair:
    """A pair of a sampled text; `grounded` is None if not measured."""

    question: str
    answer: str
    grounded: float | None


@dataclass(frozen=True)
class SampleDrop:
    """A pair of a sampled text that a gate dropped."""

    question: str
    answer: str
    reason: str


@dataclass(frozen=True)
class SampleText:
    """A sampled text with its pairs; `drops` are pieces dropped in parsing, by reason."""

    id: str
    mode: str
    text: str
    pairs: Sequence[SamplePair]
    dropped: Sequence[SampleDrop]
    drops: Mapping[str, int]


@dataclass(frozen=True)
class DroppedSample:
    """A pair that a gate dropped, with its text."""

    id: str
    text: str
    question: str
    answer: str


@dataclass(frozen=True)
class Samples:
    """Texts, and dropped pairs by reason, chosen by hash."""

    texts: Sequence[SampleText]
    dropped: Mapping[str, Sequence[DroppedSample]]


@dataclass(frozen=True)
class QualityMetrics:
    """The metrics of a corpus; `categories` are pairs by kind of question and format, `contamination` by eval set."""

    seed: int
    texts: Texts
    pairs: Pairs
    formats: Mapping[str, int]
    modes: Mapping[str, int]
    drops: Drops
    categories: Mapping[str, Mapping[str, int]]
    first_words: FirstWords
    groundedness: Groundedness
    answer_gain: AnswerGain | None
    repetition: Repetition
    contamination: Mapping[str, Contamination]
    tokens: Tokens
    samples: Samples
