"""Which checkpoints are dropped."""

from __future__ import annotations

import pytest

from megatron_ipt.checkpointing.retention import superseded
from megatron_ipt.config.pretrain import CheckpointConfig

LOSSES: dict[int, float | None] = {100: 4.0, 200: 3.0, 300: None, 400: 3.5, 500: 3.2}


@pytest.mark.parametrize(
    ("rule", "dropped"),
    [
        (CheckpointConfig(keep_last=0, keep_every=200, keep_best=1), []),
        (CheckpointConfig(keep_last=2), [300, 200, 100]),
        (CheckpointConfig(keep_last=1, keep_every=200), [500 - 200, 100]),
        (CheckpointConfig(keep_last=1, keep_best=2), [400, 300, 100]),
        (CheckpointConfig(keep_last=9), []),
    ],
)
def test_superseded(rule: CheckpointConfig, dropped: list[int]) -> None:
    assert superseded(LOSSES, rule) == dropped
