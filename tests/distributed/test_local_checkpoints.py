"""Checkpoints on the nodes' own disks: a run resumes from them as from shared ones, or says why it does not."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path
from typing import Any

import callback_jobs
import jobs
import local_jobs
import pytest
import torch
from local_runs import CRASH, SHARDED, Crashed
from pool import WorkerPool
from safetensors.torch import load_file
from tiers import tiered
from tiny import losses

from megatron_ipt.checkpointing.layout import iteration_folder, resolve_checkpoint, saved_iterations, write_latest
from megatron_ipt.checkpointing.local_files import read_contents
from megatron_ipt.observability.metrics import read_metrics

pytestmark = pytest.mark.distributed

DROPOUT = {"hidden_dropout": 0.1, "attention_dropout": 0.1}
TENSOR = {"tensor_model_parallel_size": 2}
PIPELINE = {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 2}
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "dp2 distributed optimizer bf16": (2, {"parallel": SHARDED, "precision": {"bf16": True}, "model": DROPOUT}),
    "dp2 distributed optimizer": (2, {"parallel": SHARDED}),
    "tp2 bf16": (2, {"parallel": TENSOR, "precision": {"bf16": True}, "model": DROPOUT}),
    "one rank": (1, {}),
    "pp2 interleaved": (2, {"parallel": PIPELINE}),
}
LOCAL_ONLY = ("dp2 distributed optimizer", "pp2 interleaved")
STEPS = 10


@pytest.mark.parametrize(
    "case", tiered(CASES, ["dp2 distributed optimizer bf16", "dp2 distributed optimizer", "tp2 bf16"])
)
def test_run_resumed_from_local_checkpoints_is_bitwise_identical_to_an_undisturbed_one(
    case: str, pool: WorkerPool, make_config: Any, tmp_path: Path
) -> None:
    world_size, sections = CASES[case]
    training = {"train_iters": STEPS, "log_interval": 4, "eval_interval": 4, "rampup_batch_size": [4, 4, 16]}

    # without a shared checkpoint, local ones are written in the background
    is_local_only = case in LOCAL_ONLY
    rule = {"local_interval": 2, "save_interval": 100 if is_local_only else 5, "async_save": is_local_only}

    def config(run: str) -> dict[str, Any]:
        local = {**rule, "local_folder": str(tmp_path / f"{run}_local")}
        return make_config(run, training=training, checkpoint=local, **sections)

    undisturbed, restarted = config("undisturbed"), config("restarted")
    pool.run(world_size, jobs.pretrain, undisturbed)
    assert pool.run(world_size, local_jobs.crashed, restarted, CRASH) == [True] * world_size
    assert saved_iterations(Path(restarted["run"])) == ([] if is_local_only else [5])
    runs = pool.run(world_size, local_jobs.resumed, restarted)
    assert [iteration for iteration, _ in runs] == [6] * world_size
    assert runs[0][1][0] == "using the local checkpoint of iteration 6, which is newer than the shared ones"

    assert len(losses(restarted["run"])) == 3
    assert measured(restarted["run"]) == measured(undisturbed["run"])
    folders = [iteration_folder(Path(config["run"]), STEPS) for config in (restarted, undisturbed)]
    weights, expected = (pool.run(1, jobs.weight_hashes, str(folder))[0] for folder in folders)
    assert len(expected) > 10
    assert weights == expected
    contents = [json.loads((folder / "checkpoint.json").read_text()) for folder in folders]
    assert contents[0]["consumed_train_samples"] == contents[1]["consumed_train_samples"] == 64
    states = [json.loads((folder / "callbacks.json").read_text())["anomalies"] for folder in folders]
    assert states[0] == states[1]


def measured(run: str) -> list[dict[str, Any]]:
    """The rows of a run without times."""
    names = ("iteration", "lm_loss", "validation_loss", "grad_norm", "learning_rate", "consumed_train_samples")
    rows = read_metrics(Path(run) / "metrics.jsonl")
    return [
        {name: row[name] for name in names if name in row} for row in rows if {"lm_loss", "validation_loss"} & {*row}
    ]


def test_crashed_run_leaves_only_the_two_newest_of_each_rank(crash: Crashed) -> None:
    crash.again()
    [history] = crash.local.iterdir()
    assert (crash.run / "checkpoints" / ".local_history").read_text() == f"{history.name}\n"
    assert history.name.startswith("crashed-")
    assert {str(path.relative_to(history)) for path in history.rglob("*")} == {
        path
        for rank in ("rank_00000", "rank_00001")
        for path in [rank]
        + [
            f"{rank}/iteration_000000{iteration}{name}"
            for iteration in (6, 7)
            for name in ("", "/rank.json", "/state.safetensors")
        ]
    } | {f"rank_00000/iteration_000000{iteration}/callbacks.json" for iteration in (6, 7)}
    assert [path.name for path in (crash.run / "checkpoints").glob(".local_i*")] == [".local_iteration_0000006"]
    assert resolve_checkpoint(history) is None
    assert resolve_checkpoint(crash.rank_folder(0, 7)) is None


def test_saved_weights_are_up_to_date_on_every_rank(crash: Crashed) -> None:
    """megatron-core gathers updated parameters in the next forward pass, which must not be too late for a save."""
    crash.again()
    first, second = (load_file(crash.rank_folder(rank, 7) / "state.safetensors") for rank in (0, 1))
    weights = [name for name in first if name.startswith("/model/")]
    assert len(weights) > 10
    assert [name for name in weights if not torch.equal(first[name], second[name])] == []
    sizes = [sum(tensor.numel() for name, tensor in rank.items() if name not in weights) for rank in (first, second)]
    total = sum(first[name].numel() for name in weights)
    assert sum(sizes) == 3 * total, "master weights and moments are sharded"
    assert max(sizes) < 2 * total


def test_newest_common_checkpoint_is_used(crash: Crashed, pool: WorkerPool) -> None:
    shutil.rmtree(crash.again().rank_folder(1, 7))
    runs = pool.run(2, local_jobs.resumed, crash.config)
    assert [iteration for iteration, _ in runs] == [6, 6]


@pytest.mark.parametrize(
    ("world_size", "parallel", "layout"),
    [
        (2, {"tensor_model_parallel_size": 2}, "tensor 2 x pipeline 1 x data 1"),
        (1, {}, "tensor 1 x pipeline 1 x data 1"),
    ],
    ids=["tp2", "one rank"],
)
def test_another_layout_reads_the_shared_checkpoint(
    world_size: int, parallel: dict[str, Any], layout: str, crash: Crashed, pool: WorkerPool
) -> None:
    crash.again()
    runs = pool.run(world_size, local_jobs.resumed, crash.with_settings(parallel=parallel))
    assert [iteration for iteration, _ in runs] == [5] * world_size
    reason = f"it was saved by rank 0 of tensor 1 x pipeline 1 x data 2, and this is rank 0 of {layout}"
    assert runs[0][1][0] == f"no local checkpoint is used: iteration 7 of rank 0 on {platform.node()}: {reason}"


def test_newer_shared_checkpoint_and_reset_take_precedence(crash: Crashed, pool: WorkerPool) -> None:
    crash.again()
    shared_only = crash.with_settings(checkpoint={"local_folder": None, "local_interval": None})
    history = (crash.run / "checkpoints" / ".local_history").read_text()
    assert pool.run(2, jobs.resumed_iteration, shared_only) == [5, 5]
    assert saved_iterations(crash.run) == [8, 5]
    assert list((crash.run / "checkpoints").glob(".local_*")) == [], (
        "a run without local checkpoints makes them obsolete"
    )
    (crash.run / "checkpoints" / ".local_history").write_text(history)
    longer = crash.with_settings(training={"train_iters": CRASH + 1}, schedule={"lr_decay_iters": CRASH})
    runs = pool.run(2, local_jobs.resumed, longer)
    assert [iteration for iteration, _ in runs] == [8, 8]
    assert runs[0][1][0] == "no local checkpoint is used: no rank has one after iteration 8"

    crash.again()
    pool.run(2, jobs.resumed_iteration, shared_only)
    write_latest(crash.run, 5)
    (crash.run / "checkpoints" / ".local_history").write_text(history)
    runs = pool.run(2, local_jobs.resumed, longer)
    assert [iteration for iteration, _ in runs] == [5, 5]
    assert runs[0][1][0] == "no local checkpoint is used: the run was reset to iteration 5"


def test_new_run_folder_does_not_use_the_local_checkpoints_of_the_old_one(crash: Crashed, pool: WorkerPool) -> None:
    shutil.rmtree(crash.again().run)
    [(first, lines), _] = pool.run(2, local_jobs.resumed, crash.config)
    assert (first, [line for line in lines if "used" in line or "using" in line]) == (0, [])
    assert list(crash.local.iterdir()) == []


def test_checkpoints_of_all_ranks_name_the_same_attempt(crash: Crashed, pool: WorkerPool) -> None:
    crash.again()
    longer = crash.with_settings(training={"train_iters": 10}, schedule={"lr_decay_iters": CRASH})
    assert pool.run(2, local_jobs.crashed, longer, 9) == [True, True]
    of_ranks = [[read_contents(crash.rank_folder(rank, iteration)).attempt for iteration in (7, 8)] for rank in (0, 1)]
    assert of_ranks[0] == of_ranks[1]
    assert of_ranks[0][0] != of_ranks[0][1]


def test_state_in_another_order_is_loaded_by_name(crash: Crashed, pool: WorkerPool) -> None:
    """As megatron-core orders the state of the precision-aware optimizer, with the master weights last."""
    weights = []
    for job in (local_jobs.resumed, local_jobs.resumed_with_master_weights_last):
        crash.again()
        assert [iteration for iteration, _ in pool.run(2, job, crash.config)] == [7, 7]
        weights += pool.run(1, jobs.weight_hashes, str(iteration_folder(crash.run, CRASH)))
    assert weights[0] == weights[1]


def test_no_local_checkpoint_is_used_if_another_length_changes_the_order_of_samples(
    pool: WorkerPool, make_config: Any, tmp_path: Path, dataset: dict[str, Any]
) -> None:
    rule = {"local_folder": str(tmp_path / "local"), "local_interval": 1, "save_interval": 100, "async_save": False}
    for ending in (".bin", ".idx"):
        shutil.copyfile(f"{dataset['prefix']}{ending}", tmp_path / f"other{ending}")
    blend = [{"prefix": dataset["prefix"], "epochs": 0.02}, {"prefix": str(tmp_path / "other"), "weight": 1.0}]

    def config(train_iters: int) -> dict[str, Any]:
        training = {"train_iters": train_iters, "eval_iters": 0}
        return make_config("run", training=training, checkpoint=rule, data={"blend": blend})

    assert pool.run(1, local_jobs.crashed, config(8), 5) == [True]
    [(iteration, lines)] = pool.run(1, local_jobs.resumed, config(9))
    reason = "they were saved with different settings or data, or the run folder was moved"
    assert (iteration, lines[0]) == (0, f"no local checkpoint is used: {reason}")


def test_run_rolls_back_to_the_newest_local_checkpoint(pool: WorkerPool, make_config: Any, tmp_path: Path) -> None:
    rule = {"local_folder": str(tmp_path / "local"), "local_interval": 3, "save_interval": 5}
    config = make_config("run", training={"train_iters": 9, "eval_iters": 0}, checkpoint=rule, parallel=SHARDED)
    assert pool.run(2, local_jobs.rolled_back, config, 7) == [[0, 6]] * 2
    rows = [row for row in read_metrics(Path(config["run"]) / "metrics.jsonl") if "step_seconds" in row]
    assert [(row["iteration"], "lm_loss" in row, row["skipped_steps"]) for row in rows[5:]] == [
        (6, True, 0),
        (7, True, 0),
        (8, False, 1),
        (9, True, 1),
    ]


def test_signal_saves_a_shared_checkpoint_and_removes_local_ones(crash: Crashed, pool: WorkerPool) -> None:
    crash.again()
    says = pool.run(2, local_jobs.stopped, crash.config)
    assert says == ["SIGTERM: saved iteration 7; run the same command again to resume"] * 2
    assert saved_iterations(crash.run) == [7, 5]
    assert list(crash.local.iterdir()) == []
    assert list((crash.run / "checkpoints").glob(".local_*")) == []
    assert pool.run(2, jobs.resumed_iteration, crash.config) == [7, 7]


def test_steps_without_a_save_have_no_overhead(pool: WorkerPool, make_config: Any, tmp_path: Path) -> None:
    rule = {"local_folder": str(tmp_path / "local"), "local_interval": 4, "save_interval": 100, "async_save": False}
    config = make_config("run", training={"train_iters": 8, "log_interval": 100, "eval_iters": 0}, checkpoint=rule)
    assert pool.run(2, callback_jobs.collectives_by_iteration, config, 2)[0][:7] == [1, 1, 1, 2, 1, 1, 1]
    again = make_config("again", training={"train_iters": 8, "log_interval": 100, "eval_iters": 0}, checkpoint=rule)
    assert pool.run(1, local_jobs.device_waits, again)[0][:7] == [0, 0, 0, 4, 0, 0, 0]
