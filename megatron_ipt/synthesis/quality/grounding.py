"""How much of an answer stands in its text."""

from __future__ import annotations

import re

from megatron_ipt.synthesis.grammar import Pair
from megatron_ipt.synthesis.quality.formats import FORMATS, find_format, simplify

_WORD = re.compile(r"\w+")
_VERDICTS = frozenset(("yes", "no", "maybe", "true", "false"))


def split_words(text: str) -> list[str]:
    """Words and numbers in lower case, without punctuation."""
    return _WORD.findall(text.casefold())


def find_grounded_share(pair: Pair, text_words: frozenset[str]) -> float | None:
    """The share of the answer's words that are among the text's.

    None where they need not be: a chosen option, a chain of thought, a mere yes, no, maybe, true or false; nor for an
    answer without a word.
    """
    words = split_words(pair.answer)
    if not words or find_format(pair) != FORMATS[0] or simplify(pair.answer) in _VERDICTS:
        return None
    return sum(word in text_words for word in words) / len(words)
