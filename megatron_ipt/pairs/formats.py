"""The four formats of pairs (arXiv 2406.14491), by the names that the corpus, the report and all counts use."""

from __future__ import annotations

from megatron_ipt.pairs.grammar import Pair

FORMATS = ("free_form", "multiple_choice", "free_form_reasoning", "multiple_choice_reasoning")
"""The order decides which templates the renderer draws."""


def format_of(pair: Pair) -> str:
    """Return the format of `pair`; a conclusion after no reasoning is a plain answer."""
    return ("multiple_choice" if pair.options else "free_form") + ("_reasoning" if pair.reasoning else "")
