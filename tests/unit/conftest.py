"""Fixtures of several unit tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from megatron_ipt.parallel.groups import Groups
    from megatron_ipt.training.context import RunContext


@pytest.fixture(scope="module")
def groups() -> Iterator[Groups]:
    """The process groups of a single rank."""
    from megatron_ipt.config.pretrain import ParallelConfig
    from megatron_ipt.parallel.groups import initialize, shutdown

    yield initialize(ParallelConfig(), seed=1)
    shutdown()


@pytest.fixture
def make_context(groups: Groups) -> Callable[..., RunContext]:
    """Makes the context of a run on one rank from settings by section, and fields of the context to replace."""
    from megatron_ipt.config.loading import config_from
    from megatron_ipt.config.pretrain import PretrainConfig
    from megatron_ipt.corpus.manifest import Stage
    from megatron_ipt.training.context import RunContext
    from megatron_ipt.training.recorder import MetricRecorder

    def make(settings: dict[str, Any] | None = None, **fields: Any) -> RunContext:
        config = config_from(PretrainConfig, {"run": "r", "data": {"tokenizer": "t"}, **(settings or {})})
        made: dict[str, Any] = {
            "config": config,
            "stage": Stage("pretrain", Path(config.run), {}, [], 1),
            "groups": groups,
            "log": lambda _: None,
            "recorder": MetricRecorder(groups),
        }
        return RunContext(**{**made, **fields})

    return make
