"""Lengths in words, rounded so that the tallies of any corpus stay small and add up exactly."""

from __future__ import annotations

from collections import Counter

from megatron_ipt.reporting.quality_rows import Lengths


def count_words(text: str) -> int:
    """Count what white space separates."""
    return len(text.split())


def round_words(words: int) -> int:
    """Keep numbers below 100, and the two leading digits of larger ones."""
    if words < 100:
        return words
    step: int = 10 ** (len(str(words)) - 2)
    return words - words % step


def find_quantile(tally: Counter[int], share: float) -> int | None:
    """Return the smallest value that `share` of the tallied values do not exceed; None for an empty tally."""
    wanted, seen = share * tally.total(), 0
    for value in sorted(tally):
        seen += tally[value]
        if seen >= wanted:
            return value
    return None


def describe_lengths(tally: Counter[int], words: int) -> Lengths:
    """Return the mean length, given the sum of all `words`, quantiles, and the tally itself."""
    return Lengths(
        mean=words / tally.total() if tally else None,
        median=find_quantile(tally, 0.5),
        p95=find_quantile(tally, 0.95),
        counts={str(length): tally[length] for length in sorted(tally)},
    )
