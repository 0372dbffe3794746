"""The share of an answer that its text contains."""

from __future__ import annotations

from collections.abc import Container

from megatron_ipt.pairs.grammar import Pair
from megatron_ipt.pairs.words import find_content_words, split_words

_VERDICTS = frozenset(("yes", "no", "maybe", "true", "false", "unknown"))


def find_grounded_share(pair: Pair, text_words: Container[str]) -> float | None:
    """Return the share of the answer's content words that occur in the text; of a chain of thought, its conclusion.

    None if an answer need not be in the text: a chosen option, a mere verdict such as yes or no, an answer without
    words.
    """
    if pair.options or set(split_words(pair.conclusion)) <= _VERDICTS:
        return None
    words = find_content_words(pair.conclusion)
    return sum(word in text_words for word in words) / len(words)
