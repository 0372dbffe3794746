"""The four formats of pairs (arXiv 2406.14491): free form or multiple choice, with and without chain of thought."""

from __future__ import annotations

import re

from megatron_ipt.synthesis.grammar import Pair

FORMATS = ("free form", "free form, chain of thought", "multiple choice", "multiple choice, chain of thought")
_OPTIONS = re.compile(r"\nOptions:\n- ")
_STEPS = re.compile(r"\nLet's think step by step\.?\s*$", re.IGNORECASE)
_CONCLUSION = re.compile(r"(?:^|\n)Therefore, the answer is ", re.IGNORECASE)


def find_format(pair: Pair) -> str:
    """Options make a pair multiple choice; the invitation to think, or a drawn conclusion, a chain of thought."""
    thinks = _STEPS.search(pair.question) is not None or _CONCLUSION.search(pair.answer) is not None
    return FORMATS[2 * (_OPTIONS.search(pair.question) is not None) + thinks]


def strip_question(pair: Pair) -> str:
    """The question without its options and without the invitation to think."""
    return _STEPS.sub("", _OPTIONS.split(pair.question, maxsplit=1)[0]).strip()


def simplify(words: str) -> str:
    """Without case, outer punctuation and runs of white space: what counts as the same question or answer."""
    return " ".join(words.casefold().split()).strip(" .?!")
