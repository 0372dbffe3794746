"""The n-grams of a question's wording that reveal it in a text, and where in the text they have to be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from megatron_ipt.corpus.decontamination.normalized_text import NormalizedText, Offsets

ASKING_WORDS = (
    *("what", "who", "whom", "whose", "which", "when", "where", "why", "how"),
    *("is", "are", "was", "were", "do", "does", "did", "has", "have", "had"),
    *("can", "could", "will", "would", "should", "may", "might", "must"),
)
CUTTING_WORDS = (
    *("about", "as", "at", "because", "between", "by", "for", "from", "in", "into", "like", "of", "on", "than", "that"),
    *("the", "a", "an", "through", "to", "toward", "with", "without"),
)
_TOKEN = re.compile(r"[\u3040-\u9fff]|[^\s\u3040-\u9fff]+")
_MIN_LETTERS = 10
_MIN_WORDS = 7
_MIN_WORDS_MARKED = 5
_MIN_WORDS_WITH_MARK = 3
_MIN_WORDS_SENTENCE = 4
_MIN_WORDS_SMALL = 3
_MIN_WORDS_AFTER_STOP = 3
_MIN_WORDS_BETWEEN_STOPS = 2
_MIN_LETTERS_BETWEEN_STOPS = 6


class Placement(IntEnum):
    """Where in a text an n-gram has to be to count as a match."""

    ANYWHERE = 0
    SENTENCE = 1
    """A sentence of its own: even one that only its capital, or that of the next word, sets off from another."""
    AFTER_STOP = 2
    """After a stop or line end, and before one or a capital."""
    BETWEEN_STOPS = 3
    """Between stops or line ends, or before a capital unless Written Like A Heading."""


@dataclass(frozen=True)
class Ngrams:
    """N-grams to look for, of one wording: from `starts`, `lengths` letters each."""

    normalized: NormalizedText
    starts: Offsets
    lengths: Offsets
    placement: Placement = Placement.ANYWHERE


def find_ngrams(normalized: NormalizedText, options: Sequence[str], ngram_words: int) -> Iterator[Ngrams]:
    """Yield n-grams of `ngram_words` words; of a shorter question the whole, if other texts are unlikely to have it.

    A question as short as a heading or the beginning of a sentence ("A solar eclipse occurs when") has to be placed
    apart or be followed by one of its options; the fewer its words, the stricter the placement (see `Placement`). Of a
    single word ("Thermometers") only the options remain.
    """
    words = _find_words(normalized)
    if len(words) >= ngram_words:
        ends = np.append(words, len(normalized))[ngram_words:]
        yield Ngrams(normalized, words[: len(ends)], ends - words[: len(ends)])
    elif _is_distinctive(normalized, len(words)):
        yield _leading_ngram(normalized, len(normalized))
    else:
        if len(words) >= _MIN_WORDS_BETWEEN_STOPS and len(normalized) >= _MIN_LETTERS_BETWEEN_STOPS:
            yield _leading_ngram(normalized, len(normalized), _placement_of(len(words)))
        for option in options:
            together = NormalizedText(f"{normalized.text} {option}")
            words = _find_words(together)
            if len(words) >= _MIN_WORDS and len(together) >= _MIN_LETTERS:
                yield _leading_ngram(together, int(np.append(words, len(together))[min(ngram_words, len(words))]))


def _leading_ngram(normalized: NormalizedText, end: int, placement: Placement = Placement.ANYWHERE) -> Ngrams:
    return Ngrams(normalized, np.array([0]), np.array([end]), placement)


def _placement_of(words: int) -> Placement:
    if words >= _MIN_WORDS_SENTENCE:
        return Placement.SENTENCE
    return Placement.AFTER_STOP if words >= _MIN_WORDS_AFTER_STOP else Placement.BETWEEN_STOPS


def _is_distinctive(normalized: NormalizedText, words: int) -> bool:
    """Return whether other texts are unlikely to contain these words.

    Fewer are needed for a question, for a wording that breaks off (at "to"), and for one whose first letter is in lower
    case, as in no heading.
    """
    if len(normalized) < _MIN_LETTERS:
        return False
    if normalized.text.rstrip().endswith("?"):
        return words >= _MIN_WORDS_WITH_MARK
    if words >= _MIN_WORDS_SMALL and normalized.text[normalized.offsets[0]].islower():
        return True
    words_of_text = re.findall(r"\w+", normalized.text.casefold())
    is_marked = words_of_text[0] in ASKING_WORDS or words_of_text[-1] in CUTTING_WORDS
    return words >= (_MIN_WORDS_MARKED if is_marked else _MIN_WORDS)


def _find_words(normalized: NormalizedText) -> Offsets:
    """Return the number of the first letter of each word; a word is separated by spaces and has a letter."""
    tokens = [match.start() for match in _TOKEN.finditer(normalized.text)]
    firsts: Offsets = np.unique(np.searchsorted(normalized.offsets, tokens))
    return firsts[firsts < len(normalized)]
