"""Comparison of an answer with a reference: token F1 and exact match, normalized as in SQuAD (arXiv 1606.05250)."""

from __future__ import annotations

import re
import string
from collections import Counter

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(answer: str) -> list[str]:
    """Return the words in lower case, without punctuation and articles."""
    return _ARTICLES.sub(" ", answer.lower().translate(_NO_PUNCTUATION)).split()


def find_f1(answer: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall of the answer's words; 1 for two empty answers."""
    words, expected = normalize(answer), normalize(reference)
    if not words or not expected:
        return float(words == expected)
    common = sum((Counter(words) & Counter(expected)).values())
    return 2 * common / (len(words) + len(expected))


def is_exact(answer: str, reference: str) -> bool:
    """Return whether both have the same words in the same order."""
    return normalize(answer) == normalize(reference)
