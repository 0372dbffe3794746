"""How much of a text repeats itself."""

from __future__ import annotations

from megatron_ipt.synthesis.gates.words import split_words

_NGRAM_WORDS = 3


def find_repeated_share(text: str) -> float:
    """Return the share of the three-word n-grams that equal an earlier one; 0 if there are none."""
    words = split_words(text)
    ngrams = list(zip(*(words[start:] for start in range(_NGRAM_WORDS)), strict=False))
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
