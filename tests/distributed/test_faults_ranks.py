"""Ranks that die, hang or cannot write: the run ends soon, says why, and goes on as if nothing had been."""

from __future__ import annotations

import os
import platform
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fault_hooks
import jobs
import pytest
from pool import WorkerPool
from ranks import Ranks
from tiers import tiered

from megatron_ipt.checkpointing.layout import read_latest
from megatron_ipt.observability.metrics import read_metrics

pytestmark = pytest.mark.distributed

PROMPTLY_SECONDS = 15.0
START_UP = {
    "process group": ("torch.distributed", "init_process_group"),
    "groups": ("megatron.core.parallel_state", "initialize_model_parallel"),
    "model": ("megatron_ipt.training.pretraining", "build_model_bundle"),
    "data": ("megatron_ipt.training.build", "open_datasets"),
}
"""What a rank dies before, by the phase."""


@pytest.mark.full
def test_killed_five_times_it_ends_bitwise_as_undisturbed(
    assert_undisturbed: Callable[[Path], None], pool: WorkerPool, make_config: Any
) -> None:
    config = make_config("run", checkpoint={"save_interval": 3})
    random_source = random.Random(4)
    for step in sorted(random_source.sample(range(1, 20), 5)):
        ranks = Ranks(2, config)
        ranks.wait_for_iteration(step)
        ranks.kill(random_source.randrange(2))
        assert sorted(ranks.wait(PROMPTLY_SECONDS), key=str) == [-signal.SIGKILL, os.EX_TEMPFAIL]
    pool.run(2, jobs.pretrain, config)
    assert_undisturbed(Path(config["run"]))


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.full)])
def test_killed_rank_ends_the_others_with_the_cause(victim: int, make_config: Any) -> None:
    ranks = Ranks(2, make_config("run", training={"train_iters": 100_000}, checkpoint={"save_interval": 5}))
    ranks.wait_for(lambda: read_latest(ranks.run) is not None)
    ranks.kill(victim)
    killed_seconds = time.monotonic()
    codes = ranks.wait(PROMPTLY_SECONDS)
    assert time.monotonic() - killed_seconds < PROMPTLY_SECONDS
    assert (codes[victim], codes[1 - victim]) == (-signal.SIGKILL, os.EX_TEMPFAIL)
    said = ranks.output(1 - victim).splitlines()[-1]
    assert said.startswith(f"rank {1 - victim}: lost contact with another rank")
    assert f"resumes from iteration {read_latest(ranks.run)}" in said
    assert "Traceback" not in ranks.output(1 - victim)


@pytest.mark.parametrize("phase", tiered(START_UP, ["groups"]))
def test_rank_killed_in_start_up_ends_the_others(phase: str, make_config: Any) -> None:
    ranks = Ranks(2, make_config("run"), prepare=fault_hooks.killed_in_start_up, arguments=(1, *START_UP[phase]))
    ranks.processes[1].join()
    codes = ranks.wait(PROMPTLY_SECONDS)
    assert codes == [os.EX_TEMPFAIL, -signal.SIGKILL], ranks.output(0)
    assert "Traceback" not in ranks.output(0)


def test_hang_writes_the_stacks_of_all_ranks(make_config: Any) -> None:
    config = make_config("run", faults={"hang_timeout_seconds": 15})
    ranks = Ranks(2, config, prepare=fault_hooks.change_losses, arguments=(7, 1, fault_hooks.hanging))
    assert ranks.wait() == [os.EX_TEMPFAIL, os.EX_TEMPFAIL]
    assert "rank 0 on" in ranks.output(0)
    assert "iteration 7 took over 15 s" in ranks.output(1)
    stacks = [file.read_text(encoding="utf-8") for file in sorted((ranks.run / "stacks").iterdir())]
    assert "finish_grad_sync" in stacks[0], "rank 0 waits for the gradients of rank 1"
    assert "in hanging" in stacks[1]
    assert all("iteration 7 took over 15 s" in text for text in stacks)


def test_slow_rank_is_named(make_config: Any) -> None:
    config = make_config("run", training={"train_iters": 6, "log_interval": 3})
    ranks = Ranks(2, config, prepare=fault_hooks.slow_down, arguments=(1, 0.1))
    assert ranks.wait() == [0, 0]
    rows = [row for row in read_metrics(ranks.run / "metrics.jsonl") if "slowest_rank" in row]
    assert [row["slowest_rank"] for row in rows] == [1, 1]
    assert all(row["slowest_rank_ratio"] > 1.2 for row in rows)
    assert f"rank 1 on {platform.node()} is slow" in ranks.output()


def test_second_job_takes_the_run_lock_from_the_first(make_config: Any) -> None:
    config = make_config("run", training={"train_iters": 100_000}, checkpoint={"save_interval": 5})
    first = Ranks(1, config)
    first.wait_for(lambda: read_latest(first.run) is not None)
    second = Ranks(1, config)
    assert first.wait() == [2]
    assert "another job has been started on it since" in first.output()
    second.wait_for(lambda: (read_latest(second.run) or 0) >= 30)
    second.kill(0, signal.SIGTERM)
    assert second.wait() == [os.EX_TEMPFAIL], second.output()
