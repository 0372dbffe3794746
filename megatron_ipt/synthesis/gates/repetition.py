"""How much of a piece of writing says again what it said before."""

from __future__ import annotations

from megatron_ipt.synthesis.gates.words import split_words

_SEQUENCE_WORDS = 3


def find_repeated_share(text: str) -> float:
    """The share of the three-word sequences that are the same as an earlier one; 0 where there are none."""
    words = split_words(text)
    sequences = list(zip(*(words[start:] for start in range(_SEQUENCE_WORDS)), strict=False))
    return 1 - len(set(sequences)) / len(sequences) if sequences else 0.0
