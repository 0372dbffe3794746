"""Damaged, missing and unwritable local checkpoints cost at most the steps since the last good one."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import local_jobs
import pytest
from local_runs import CRASH, SHARDED, TWO_LEVELS, Crashed
from pool import WorkerPool
from ranks import Ranks

from megatron_ipt.checkpointing.layout import iteration_folder, saved_iterations

pytestmark = pytest.mark.distributed


def remove(crash: Crashed) -> None:
    shutil.rmtree(crash.rank_folder(1, 7).parent)


def damage(crash: Crashed) -> None:
    for iteration in (6, 7):
        file = crash.rank_folder(iteration % 2, iteration) / "state.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)


def change_progress(crash: Crashed) -> None:
    shutil.rmtree(crash.rank_folder(0, 6))
    file = crash.rank_folder(0, 7) / "rank.json"
    file.write_text(file.read_text().replace('"consumed_train_samples": 56', '"consumed_train_samples": 48'))


def remove_rank_json(crash: Crashed) -> None:
    shutil.rmtree(crash.rank_folder(1, 6))
    (crash.rank_folder(1, 7) / "rank.json").unlink()


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (remove, "iteration 7 of rank 1 on NODE: it is missing"),
        (damage, "iteration 7 of rank 1 on NODE: state.safetensors has changed since it was saved"),
        pytest.param(
            change_progress,
            "iteration 7 of rank 0 on NODE: rank.json: it has changed since it was saved",
            marks=pytest.mark.full,
        ),
        pytest.param(
            remove_rank_json,
            "iteration 7 of rank 1 on NODE: rank.json: [Errno 2] No such file or directory",
            marks=pytest.mark.full,
        ),
    ],
    ids=["missing", "damaged", "changed", "no rank.json"],
)
def test_run_falls_back_to_the_shared_checkpoint(
    act: Callable[[Crashed], None], reason: str, crash: Crashed, pool: WorkerPool
) -> None:
    act(crash.again())
    (first, lines), (second, others) = pool.run(2, local_jobs.resumed, crash.config)
    assert (first, second, others) == (5, 5, [])
    assert lines[0].startswith(f"no local checkpoint is used: {reason.replace('NODE', platform.node())}")
    assert not any("no local checkpoint" in line for line in lines[1:])
    assert saved_iterations(crash.run) == [8, 5]
    assert list(crash.local.iterdir()) == []


def test_run_falls_back_to_the_shared_checkpoint_if_a_file_is_unreadable(crash: Crashed, pool: WorkerPool) -> None:
    crash.again()
    runs = pool.run(2, local_jobs.resumed_with_a_bad_sector, crash.config, 1)
    assert [iteration for iteration, _ in runs] == [5, 5]
    reason = f"iteration 7 of rank 1 on {platform.node()}: [Errno 5] Input/output error"
    assert runs[0][1][0].startswith(f"no local checkpoint is used: {reason}")


def test_start_that_saves_nothing_removes_no_local_checkpoint(crash: Crashed, pool: WorkerPool) -> None:
    crash.again()
    assert pool.run(1, local_jobs.crashed, crash.config, 6) == [True]
    assert [iteration for iteration, _ in pool.run(2, local_jobs.resumed, crash.config)] == [7, 7]


@pytest.mark.parametrize(
    "checkpoint", [{}, {"local_folder": None, "local_interval": None}], ids=["layout", "no folder"]
)
def test_wrong_start_that_is_stopped_before_its_first_step_removes_nothing(
    checkpoint: dict[str, Any], crash: Crashed, pool: WorkerPool
) -> None:
    crash.again()
    says = pool.run(1, local_jobs.stopped, crash.with_settings(checkpoint=checkpoint))
    assert says == ["SIGTERM: saved iteration 5; run the same command again to resume"]
    assert [iteration for iteration, _ in pool.run(2, local_jobs.resumed, crash.config)] == [7, 7]


def test_run_killed_right_after_a_shared_checkpoint_goes_on_from_it(crash: Crashed, pool: WorkerPool) -> None:
    """Local checkpoints of another start are later, but do not continue it."""
    crash.again()
    other = crash.with_settings(training={"exit_interval": 6}, checkpoint={"local_interval": 4})
    assert pool.run(1, local_jobs.killed_after_its_last_save, other) == [True]
    assert saved_iterations(crash.run) == [6, 5]
    assert [iteration for iteration, _ in pool.run(2, local_jobs.resumed, crash.config)] == [6, 6]


def test_writes_slower_than_the_interval_are_progress(pool: WorkerPool, make_config: Any, tmp_path: Path) -> None:
    rule = {"local_folder": str(tmp_path / "local"), "local_interval": 1, "save_interval": 100}
    config = make_config("run", training={"train_iters": 9, "eval_iters": 0}, checkpoint=rule)
    [recorded, _] = pool.run(2, local_jobs.recorded_with_a_slow_disk, config, 1, 5)
    assert recorded in ([".local_iteration_0000002"], [".local_iteration_0000003"])


def test_newest_common_checkpoint_is_kept_while_a_rank_cannot_write(crash: Crashed, pool: WorkerPool) -> None:
    size = (crash.again().rank_folder(1, 7) / "state.safetensors").stat().st_size
    longer = crash.with_settings(training={"train_iters": 14}, schedule={"lr_decay_iters": CRASH})
    pool.run(2, local_jobs.crashed_on_a_full_disk, longer, 1, size - 1000, 10)
    folders = [folder.parent for folder in crash.local.glob("*/rank_*/iteration_*/rank.json")]
    assert sorted(f"{folder.parent.name[-1]} {int(folder.name[-7:])}" for folder in folders) == [
        "0 7",
        "0 8",
        "0 9",
        "1 7",
    ]
    assert [path.name for path in (crash.run / "checkpoints").glob(".local_i*")] == [".local_iteration_0000006"]
    assert [iteration for iteration, _ in pool.run(2, local_jobs.resumed, longer)] == [7, 7]


def test_local_folder_that_is_emptied_does_not_end_the_run(pool: WorkerPool, make_config: Any, tmp_path: Path) -> None:
    rule = {"local_folder": str(tmp_path / "local"), "local_interval": 1, "save_interval": 100}
    config = make_config("run", training={"train_iters": 8, "eval_iters": 0}, checkpoint=rule)
    pool.run(1, local_jobs.emptied, config, 4)
    assert saved_iterations(Path(config["run"])) == [8]


@pytest.mark.full
def test_killed_ranks_resume_from_the_newest_common_checkpoint(
    pool: WorkerPool, make_config: Any, tmp_path: Path
) -> None:
    rule = {"local_folder": str(tmp_path / "local"), "local_interval": 1, "save_interval": 1_000_000}
    schedule = {"lr_decay_iters": 100, "lr_warmup_iters": 2}
    config = make_config(
        "run", training={"train_iters": 1_000_000}, checkpoint=rule, schedule=schedule, parallel=SHARDED
    )
    ranks = Ranks(2, config)
    ranks.wait_for_iteration(9)
    for rank in (1, 0):
        ranks.kill(rank)
    assert ranks.wait() == [-9, -9]
    written = [int(folder.name[-7:]) for folder in (tmp_path / "local").glob("*/rank_*/iteration_*")]
    assert min(written) >= 5
    config["training"]["train_iters"] = max(written) + 2
    (first, lines), (second, _) = pool.run(2, local_jobs.resumed, config)
    assert first == second and first in written
    assert lines[0] == f"using the local checkpoint of iteration {first}, which is newer than the shared ones"
    assert saved_iterations(ranks.run) == [max(written) + 2]


def test_full_disk_affects_only_local_checkpoints(crash: Crashed, pool: WorkerPool) -> None:
    size = (crash.again().rank_folder(1, 7) / "state.safetensors").stat().st_size
    largest = max(file.stat().st_size for file in iteration_folder(crash.run, 5).iterdir())
    assert largest < size - 1000
    longer = crash.with_settings(training={"train_iters": 14}, schedule={"lr_decay_iters": CRASH})
    (first, lines), (second, others) = pool.run(2, local_jobs.resumed_on_a_full_disk, longer, size - 1000)
    assert (first, second) == (7, 7)
    failed = [8, 9, 11, 12, 13]
    unwritten = [f"the local checkpoint of iteration {iteration} cannot be written" for iteration in failed]
    assert [line.partition(":")[0] for line in others] == unwritten
    assert all("File too large" in line for line in others)
    warning = "warning: 2 rank(s) could not write a local checkpoint, see their output"
    assert lines.count(warning) >= len(failed) - 1
    assert saved_iterations(crash.run) == [14, 10, 5]
    assert list(crash.local.iterdir()) == []


def test_unwritable_folder_is_refused_on_all_ranks(pool: WorkerPool, make_config: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    rule = {**TWO_LEVELS, "local_folder": str(tmp_path / "file" / "local")}
    first, second = pool.run(2, jobs.refused, make_config("run", checkpoint=rule))
    assert first == second
    assert first.startswith(f"checkpoint.local_folder = {rule['local_folder']}\n")
    assert f"rank 0 on {platform.node()} cannot write there: [Errno 20] Not a directory" in first
