"""An answer against the reference: token F1 and exact match after SQuAD's normalisation (arXiv 1606.05250)."""

from __future__ import annotations

import re
import string
from collections import Counter

from megatron_ipt.synthesis.grammar import Pair

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_TAGS = re.compile(r"<(?:/?CON|QUE|ANS|/END)>")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(answer: str) -> list[str]:
    """Words in lower case, without punctuation and articles."""
    return _ARTICLES.sub(" ", answer.lower().translate(_NO_PUNCTUATION)).split()


def find_f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall of the answer's words; of two empty answers 1."""
    words, wanted = normalise(answer), normalise(reference)
    if not words or not wanted:
        return float(words == wanted)
    common = sum((Counter(words) & Counter(wanted)).values())
    return 2 * common / (len(words) + len(wanted))


def is_exact(answer: str, reference: str) -> bool:
    """Whether the words are the same ones in the same order."""
    return normalise(answer) == normalise(reference)


def read_answer(question: str, output: str) -> tuple[str, bool]:
    """The answer that begins an output, without its chain of thought, and whether `</END>` ends it."""
    answer, tag = output, ""
    if found := _TAGS.search(output):
        answer, tag = output[: found.start()], found[0]
    return Pair(question, answer.strip()).conclusion, tag == "</END>"
