"""Saves beside the training: it goes on meanwhile, and whatever ends them leaves the former checkpoint."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fault_hooks
import jobs
import local_jobs
import psutil
import pytest
from pool import WorkerPool
from ranks import Ranks
from tiny import losses

from megatron_ipt.checkpointing.layout import iteration_folder, partial_folders, read_latest, saved_iterations
from megatron_ipt.observability.metrics import read_metrics

pytestmark = pytest.mark.distributed

SAVES = {"checkpoint": {"save_interval": 5}}


def test_signals_to_every_process_while_a_checkpoint_is_written(make_config: Any) -> None:
    """Training goes on beside the write; the run then waits for it, saves once more and leaves."""
    config = make_config("run", training={"train_iters": 100_000}, **SAVES)
    ranks = Ranks(2, config, prepare=fault_hooks.writing, arguments=(fault_hooks.slowly, 2.0))
    ranks.wait_for_iteration(9)
    assert saved_iterations(ranks.run) == []
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
        ranks.signal_all(number)
    assert ranks.wait() == [os.EX_TEMPFAIL, os.EX_TEMPFAIL]
    last, first = saved_iterations(ranks.run)
    assert (first, read_latest(ranks.run)) == (5, last)
    assert f": saved iteration {last}" in ranks.output()
    row = next(row for row in read_metrics(ranks.run / "metrics.jsonl") if "checkpoint_seconds" in row)
    assert row["checkpoint_iteration"] == 5
    assert row["checkpoint_held_seconds"] < row["checkpoint_seconds"] > 2.0


@pytest.mark.full
def test_killed_while_saving_leaves_the_former_checkpoint(
    assert_undisturbed: Callable[[Path], None], pool: WorkerPool, make_config: Any
) -> None:
    config = make_config("run", **SAVES)
    ranks = Ranks(2, config, prepare=fault_hooks.writing, arguments=(fault_hooks.slowly, 1.5))
    ranks.wait_for(lambda: any(".iter_0000010" in folder.name for folder in partial_folders(ranks.run)))
    served_by = [child for process in ranks.processes for child in psutil.Process(process.pid).children(recursive=True)]
    ranks.kill(0)
    ranks.kill(1)
    _, alive = psutil.wait_procs(served_by, timeout=20)
    assert served_by
    assert alive == []
    ranks.wait()
    assert read_latest(ranks.run) == 5
    assert pool.run(2, jobs.resumed_iteration, config) == [5, 5]
    assert partial_folders(ranks.run) == []
    assert_undisturbed(ranks.run)


def test_failed_run_does_not_affect_checkpoints_of_the_next_run_in_the_process(
    pool: WorkerPool, make_config: Any
) -> None:
    failing = make_config("failing", checkpoint={"save_interval": 2})
    assert pool.run(2, local_jobs.crashed, failing, 3) == [True, True]
    config = make_config("run", model={"num_layers": 3}, training={"train_iters": 4})
    pool.run(2, jobs.pretrain, config)
    assert len(pool.run(1, jobs.weight_hashes, str(iteration_folder(Path(config["run"]), 4)))[0]) > 10


def test_killed_writer_leaves_the_former_checkpoint(
    assert_undisturbed: Callable[[Path], None], pool: WorkerPool, make_config: Any
) -> None:
    config = make_config("run", **SAVES)
    ranks = Ranks(2, config, prepare=fault_hooks.writing, arguments=(fault_hooks.killed_at, 10))
    assert ranks.wait() == [os.EX_TEMPFAIL, os.EX_TEMPFAIL]
    assert "a process that was writing a checkpoint was killed" in ranks.output()
    assert "Traceback" not in ranks.output(0) + ranks.output(1)
    assert (saved_iterations(ranks.run), partial_folders(ranks.run)) == ([5], [])
    assert pool.run(2, jobs.resumed_iteration, config) == [5, 5]
    assert_undisturbed(ranks.run)


def test_writer_that_hangs_at_its_start_is_replaced(
    assert_undisturbed: Callable[[Path], None], make_config: Any, tmp_path: Path
) -> None:
    ranks = Ranks(
        2, make_config("run", **SAVES), prepare=fault_hooks.first_writer_hangs, arguments=(tmp_path / "hung",)
    )
    assert ranks.wait() == [0, 0]
    assert "a process that should write a checkpoint does not start" in ranks.output()
    assert sorted(path.name for path in tmp_path.glob("hung.*")) == ["hung.0", "hung.1"]
    assert_undisturbed(ranks.run)


def test_full_disk_leaves_the_former_checkpoint(
    assert_undisturbed: Callable[[Path], None], pool: WorkerPool, make_config: Any
) -> None:
    config = make_config("run", **SAVES)
    pool.run(2, jobs.pretrain, {**config, "training": {**config["training"], "exit_interval": 5}})
    full = Ranks(2, config, prepare=fault_hooks.limit_file_size, arguments=[100_000])
    assert set(full.wait()) <= {2, os.EX_TEMPFAIL}
    said = full.output(0) + full.output(1)
    assert "it could not be written" in said
    assert "Traceback" not in said
    assert (saved_iterations(full.run), partial_folders(full.run)) == ([5], [])
    assert pool.run(2, jobs.resumed_iteration, config) == [5, 5]
    assert_undisturbed(full.run)


@pytest.mark.full
def test_full_disk_between_two_checkpoints(pool: WorkerPool, make_config: Any) -> None:
    """The lines of metrics.jsonl are the first that find no room."""
    config = make_config("run", checkpoint={"save_interval": 5, "async_save": False})
    ranks = Ranks(1, config, prepare=fault_hooks.change_losses, arguments=(6, 0, fault_hooks.with_full_disk))
    assert ranks.wait() == [2]
    assert "metrics.jsonl" in ranks.output()
    assert "Traceback" not in ranks.output()
    assert saved_iterations(ranks.run) == [5]
    assert pool.run(1, jobs.resumed_iteration, config) == [5]
    assert len(losses(ranks.run)) == 20
