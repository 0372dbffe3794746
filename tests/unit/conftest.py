"""Fixtures of several unit tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from megatron_ipt.parallel.groups import Groups


@pytest.fixture(scope="module")
def groups() -> Iterator[Groups]:
    """The process groups of a single rank."""
    from megatron_ipt.config.pretrain import ParallelConfig
    from megatron_ipt.parallel.groups import initialize, shutdown

    yield initialize(ParallelConfig(), seed=1)
    shutdown()
