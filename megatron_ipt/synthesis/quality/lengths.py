"""Lengths in words, tallied with few keys so that tallies of any corpus stay small and add up exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any


def count_words(text: str) -> int:
    """What white space separates."""
    return len(text.split())


def round_words(words: int) -> int:
    """Exact below 100; from there the two leading digits."""
    if words < 100:
        return words
    step: int = 10 ** (len(str(words)) - 2)
    return words - words % step


def find_quantile(tally: Counter[int], share: float) -> int | None:
    """The least value that `share` of what was tallied does not exceed; None for an empty tally."""
    wanted, seen = share * tally.total(), 0
    for value in sorted(tally):
        seen += tally[value]
        if seen >= wanted:
            return value
    return None


def gather_bins(tally: Counter[int], edges: Sequence[int]) -> list[int]:
    """How many lie from each edge up to the next one; the last bin is open."""
    counts = [0] * len(edges)
    for value, count in tally.items():
        counts[sum(edge <= value for edge in edges) - 1] += count
    return counts


def describe_lengths(tally: Counter[int], words: int) -> dict[str, Any]:
    """Mean of the `words` in all, quantiles, and the tally itself."""
    quantiles = {"median": find_quantile(tally, 0.5), "95%": find_quantile(tally, 0.95)}
    return {
        "mean": words / tally.total() if tally else None,
        **quantiles,
        "counts": {str(length): tally[length] for length in sorted(tally)},
    }
