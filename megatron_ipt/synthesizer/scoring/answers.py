"""An answer against the reference: token F1 and exact match after SQuAD's normalization (arXiv 1606.05250)."""

from __future__ import annotations

import re
import string
from collections import Counter

from megatron_ipt.pairs.grammar import Pair

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_TAGS = re.compile(r"<(?:/?CON|QUE|ANS|/END)>")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(answer: str) -> list[str]:
    """Return the words in lower case, without punctuation and articles."""
    return _ARTICLES.sub(" ", answer.lower().translate(_NO_PUNCTUATION)).split()


def find_f1(answer: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall of the answer's words; 1 for two empty answers."""
    words, wanted = normalize(answer), normalize(reference)
    if not words or not wanted:
        return float(words == wanted)
    common = sum((Counter(words) & Counter(wanted)).values())
    return 2 * common / (len(words) + len(wanted))


def is_exact(answer: str, reference: str) -> bool:
    """Return whether both have the same words in the same order."""
    return normalize(answer) == normalize(reference)


def read_answer(question: str, output: str) -> tuple[str, bool]:
    """Return the answer at the beginning of an output, without reasoning, and whether `</END>` ends it."""
    answer, tag = output, ""
    if found := _TAGS.search(output):
        answer, tag = output[: found.start()], found[0]
    return Pair(question, answer.strip()).conclusion, tag == "</END>"
