"""What of a question's wording has to be met in a text, and under which condition."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from megatron_ipt.corpus.decontamination.letters import Letters, Offsets

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
_LEAST_LETTERS = 10
_LEAST_WORDS = 7
_LEAST_WORDS_MARKED = 5
_LEAST_WORDS_WITH_MARK = 3
_LEAST_WORDS_APART = 4
_LEAST_WORDS_SMALL = 3
_LEAST_WORDS_LEADING = 3
_LEAST_WORDS_ALONE = 2
_LEAST_LETTERS_ALONE = 6


class Standing(IntEnum):
    """How a run has to stand in a text to count."""

    ANYWHERE = 0
    APART = 1
    """A sentence of its own, were it only by its capital amid another or by that of the next word."""
    LEADING = 2
    """After a stop or line end, and before one or a capital."""
    ALONE = 3
    """Between stops or line ends, or before a capital unless Written Like A Heading."""


@dataclass(frozen=True)
class Runs:
    """Runs of letters that are looked for."""

    letters: Letters
    starts: Offsets
    lengths: Offsets
    standing: Standing = Standing.ANYWHERE


def find_runs(letters: Letters, options: Sequence[str], ngram_words: int) -> Iterator[Runs]:
    """The runs of `ngram_words` words in a question; of a shorter one the whole, if no other text is likely to hold it.

    One as short as a heading or the beginning of a sentence ("A solar eclipse occurs when") has to stand apart or be
    followed by one of its options; the fewer its words, the farther apart (see `Standing`), and for a single word
    ("Thermometers") only the options are left.
    """
    words = _find_words(letters)
    if len(words) >= ngram_words:
        ends = np.append(words, len(letters))[ngram_words:]
        yield Runs(letters, words[: len(ends)], ends - words[: len(ends)])
    elif _is_telling(letters, len(words)):
        yield _beginning(letters, len(letters))
    else:
        if len(words) >= _LEAST_WORDS_ALONE and len(letters) >= _LEAST_LETTERS_ALONE:
            yield _beginning(letters, len(letters), _standing(len(words)))
        for option in options:
            together = Letters(f"{letters.text} {option}")
            words = _find_words(together)
            if len(words) >= _LEAST_WORDS and len(together) >= _LEAST_LETTERS:
                yield _beginning(together, int(np.append(words, len(together))[min(ngram_words, len(words))]))


def _beginning(letters: Letters, end: int, standing: Standing = Standing.ANYWHERE) -> Runs:
    return Runs(letters, np.array([0]), np.array([end]), standing)


def _standing(words: int) -> Standing:
    if words >= _LEAST_WORDS_APART:
        return Standing.APART
    return Standing.LEADING if words >= _LEAST_WORDS_LEADING else Standing.ALONE


def _is_telling(letters: Letters, words: int) -> bool:
    """Whether no other text is likely to hold these words.

    A question, what breaks off (at "to") and what begins with a small letter, as no heading does, need fewer.
    """
    if len(letters) < _LEAST_LETTERS:
        return False
    if letters.text.rstrip().endswith("?"):
        return words >= _LEAST_WORDS_WITH_MARK
    if words >= _LEAST_WORDS_SMALL and letters.text[letters.places[0]].islower():
        return True
    words_of_text = re.findall(r"\w+", letters.text.casefold())
    is_marked = words_of_text[0] in ASKING_WORDS or words_of_text[-1] in CUTTING_WORDS
    return words >= (_LEAST_WORDS_MARKED if is_marked else _LEAST_WORDS)


def _find_words(letters: Letters) -> Offsets:
    """Number of the first letter of each word; what spaces divide is a word if it has a letter."""
    tokens = [match.start() for match in _TOKEN.finditer(letters.text)]
    firsts: Offsets = np.unique(np.searchsorted(letters.places, tokens))
    return firsts[firsts < len(letters)]
