"""The four formats of pairs (arXiv 2406.14491) by the names that people read."""

from __future__ import annotations

from megatron_ipt.synthesis.grammar import Pair

FORMATS = ("free form", "free form, chain of thought", "multiple choice", "multiple choice, chain of thought")


def find_format(pair: Pair) -> str:
    """Free form or multiple choice, with or without chain of thought."""
    return FORMATS[2 * bool(pair.options) + (pair.reasoning is not None)]


def simplify(words: str) -> str:
    """Without case, outer punctuation and runs of white space: what counts as the same question or answer."""
    return " ".join(words.casefold().split()).strip(" .?!")
