"""The entries with the smallest hashes: a uniform sample that depends neither on order nor on who read what."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappush, heappushpop
from typing import Any

import orjson


def keep_smaller(one: Any, other: Any) -> Any:
    """Combine two values of one entry by keeping the one whose JSON sorts first."""
    return min(one, other, key=orjson.dumps)


def add_up(one: Any, other: Any) -> Any:
    """Add counts of one entry; they are exact: a hash that ends among the smallest k was among them all the time."""
    return one + other


class BottomK:
    """Keeps the plain values of the `size` smallest hashes; two values of one hash are combined.

    Adding in any order, to one instance or to several that are merged, ends with the same entries.
    """

    def __init__(self, size: int, combine: Callable[[Any, Any], Any] = keep_smaller) -> None:
        self._size, self._combine = size, combine
        self._values: dict[int, Any] = {}
        self._largest_first: list[int] = []

    def __len__(self) -> int:
        return len(self._values)

    @property
    def is_full(self) -> bool:
        """Return whether entries may have been left out."""
        return len(self._values) == self._size

    @property
    def largest_hash(self) -> int:
        """Return the largest hash that was kept."""
        return -self._largest_first[0]

    def takes(self, key: int) -> bool:
        """Return whether an entry of this hash would be kept."""
        return not self.is_full or key <= self.largest_hash

    def add(self, key: int, value: Any) -> None:
        """Add the value, unless `size` smaller hashes are there."""
        if key in self._values:
            self._values[key] = self._combine(self._values[key], value)
        elif not self.is_full:
            heappush(self._largest_first, -key)
            self._values[key] = value
        elif key < self.largest_hash:
            del self._values[-heappushpop(self._largest_first, -key)]
            self._values[key] = value

    def merge(self, other: BottomK) -> None:
        """Add what `other` kept."""
        for key, value in other._values.items():
            self.add(key, value)

    def values(self) -> list[Any]:
        """Return the kept values, smallest hash first."""
        return [value for _, value in sorted(self._values.items(), key=lambda item: item[0])]

    def to_rows(self) -> list[list[Any]]:
        """Return hashes with values, for JSON."""
        return [[key, self._values[key]] for key in sorted(self._values)]

    def add_rows(self, rows: list[list[Any]]) -> None:
        """Add the result of `to_rows` of another instance."""
        for key, value in rows:
            self.add(key, value)
