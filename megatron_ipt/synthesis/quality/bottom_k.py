"""The entries with the smallest hashes: a uniform sample that does not depend on order or on who read what."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappush, heappushpop
from typing import Any

import orjson


def keep_smaller(one: Any, other: Any) -> Any:
    """For entries that are the same thing twice: whichever comes first in bytes."""
    return min(one, other, key=orjson.dumps)


def add_up(one: Any, other: Any) -> Any:
    """For entries that are counts; they are exact, since a hash once among the smallest k of all was so all along."""
    return one + other


class BottomK:
    """Plain values under hashes, of which the `size` smallest stay; two values of one hash are combined.

    Adding in any order, in one place or in several that are merged, ends with the same entries.
    """

    def __init__(self, size: int, combine: Callable[[Any, Any], Any] = keep_smaller) -> None:
        self._size, self._combine = size, combine
        self._values: dict[int, Any] = {}
        self._largest_first: list[int] = []

    def __len__(self) -> int:
        return len(self._values)

    @property
    def is_full(self) -> bool:
        """Whether entries may have been left out."""
        return len(self._values) == self._size

    @property
    def largest_hash(self) -> int:
        """The largest hash that stayed."""
        return -self._largest_first[0]

    def takes(self, key: int) -> bool:
        """Whether an entry of this hash would stay."""
        return not self.is_full or key <= self.largest_hash

    def add(self, key: int, value: Any) -> None:
        """Take the value, unless `size` smaller hashes are there."""
        if key in self._values:
            self._values[key] = self._combine(self._values[key], value)
        elif not self.is_full:
            heappush(self._largest_first, -key)
            self._values[key] = value
        elif key < self.largest_hash:
            del self._values[-heappushpop(self._largest_first, -key)]
            self._values[key] = value

    def merge(self, other: BottomK) -> None:
        """Take what another one kept."""
        for key, value in other._values.items():
            self.add(key, value)

    def values(self) -> list[Any]:
        """What was kept, smallest hash first."""
        return [value for _, value in sorted(self._values.items(), key=lambda item: item[0])]

    def to_rows(self) -> list[list[Any]]:
        """Hashes with values, for JSON."""
        return [[key, self._values[key]] for key in sorted(self._values)]

    def add_rows(self, rows: list[list[Any]]) -> None:
        """Take what `to_rows` of another one gave."""
        for key, value in rows:
            self.add(key, value)
