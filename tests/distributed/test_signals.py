"""Ctrl-C, SIGTERM and SIGUSR1: the run saves after the current step, and every rank asks to be started again."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from ranks import Ranks
from tiny import losses

from megatron_ipt.checkpointing.layout import read_latest

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize(("number", "rank"), [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGUSR1, 1)])
def test_signal_to_any_rank_saves_and_asks_to_be_requeued(number: signal.Signals, rank: int, make_config: Any) -> None:
    config = make_config("run", training={"train_iters": 1000})
    ranks = Ranks(2, config)
    ranks.wait_for_iteration(3)
    ranks.kill(rank, number)
    assert ranks.wait() == [os.EX_TEMPFAIL, os.EX_TEMPFAIL]
    saved = read_latest(ranks.run)
    assert saved is not None
    assert len(losses(ranks.run)) == saved >= 3
    assert f"{number.name}: saved iteration {saved}" in ranks.output(0)
    assert "Traceback" not in ranks.output(0) + ranks.output(1)
