"""Which rank keeps the others waiting."""

from __future__ import annotations

import pytest

from megatron_ipt.training.stragglers import find_slowest


@pytest.mark.parametrize(
    ("parts", "seconds", "slowest", "ratio"),
    [
        ([0, 0], [1.0, 3.0], 1, 3.0),
        ([0, 0, 0, 0], [1.0, 1.0, 1.0, 1.5], 3, 1.5),
        ([0, 1, 0, 1], [1.0, 9.0, 2.0, 10.0], 2, 2.0),  # stages of a pipeline differ by themselves
    ],
)
def test_find_slowest(parts: list[float], seconds: list[float], slowest: int, ratio: float) -> None:
    assert find_slowest(parts, seconds) == (slowest, ratio)
