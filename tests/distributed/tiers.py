"""Which cases of a matrix run on every change; the others are for `make test-full`."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import pytest
from _pytest.mark import ParameterSet


def tiered(cases: Iterable[str], often: Collection[str]) -> list[ParameterSet]:
    """Parameters of a test: `often` on every change, the rest marked `full`."""
    return [pytest.param(case, marks=[] if case in often else pytest.mark.full) for case in cases]
