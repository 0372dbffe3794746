"""Checkpoints on the nodes' own disks: a run resumes from them as from shared ones, or says why it does not."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import callback_jobs
import jobs
import local_jobs
import pytest
import torch
from pool import WorkerPool
from ranks import Ranks
from safetensors.torch import load_file
from tiers import tiered
from tiny import losses

from megatron_ipt.checkpointing.layout import iteration_folder, resolve_checkpoint, saved_iterations, write_latest
from megatron_ipt.checkpointing.local_files import read_contents
from megatron_ipt.observability.metrics import read_metrics

pytestmark = pytest.mark.distributed

SHARDED = {"use_distributed_optimizer": True, "overlap_grad_reduce": True, "overlap_param_gather": True}
DROPOUT = {"hidden_dropout": 0.1, "attention_dropout": 0.1}
TWO_LEVELS = {"save_interval": 5, "local_interval": 1, "async_save": False}
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
CRASH, STEPS = 8, 10


@pytest.mark.parametrize(
    "case", tiered(CASES, ["dp2 distributed optimizer bf16", "dp2 distributed optimizer", "tp2 bf16"])
)
def test_run_resumed_from_local_checkpoints_is_bitwise_the_undisturbed_one(
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
    assert runs[0][1][0] == "the local checkpoint of iteration 6 is newer than the shared ones: it is used"

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


class Crashed:
    """A run of two ranks that crashed in its eighth step, with a shared checkpoint of iteration 5 and local ones of 6
    and 7, as often as a test needs it."""

    def __init__(self, config: dict[str, Any], backup: Path) -> None:
        self.config, self._backup = config, backup
        self.run, self.local = Path(config["run"]), Path(config["checkpoint"]["local_folder"])
        for folder in (self.run, self.local):
            shutil.copytree(folder, backup / folder.name)

    def again(self) -> Crashed:
        for folder in (self.run, self.local):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(self._backup / folder.name, folder)
        return self

    def rank_folder(self, rank: int, iteration: int) -> Path:
        [history] = self.local.iterdir()
        return history / f"rank_{rank:05d}" / f"iteration_{iteration:07d}"

    def with_settings(self, **sections: dict[str, Any]) -> dict[str, Any]:
        return {**self.config, **{name: {**self.config.get(name, {}), **given} for name, given in sections.items()}}


@pytest.fixture(scope="module")
def crash(pool: WorkerPool, make_module_config: Any, tmp_path_factory: pytest.TempPathFactory) -> Crashed:
    folder = tmp_path_factory.mktemp("crashed")
    rule = {**TWO_LEVELS, "local_folder": str(folder / "local")}
    config = make_module_config(
        "crashed", parallel=SHARDED, checkpoint=rule, training={"train_iters": CRASH, "eval_iters": 0}
    )
    assert pool.run(2, local_jobs.crashed, config, CRASH) == [True, True]
    return Crashed(config, folder / "backup")


def test_crashed_run_has_the_two_newest_of_each_rank_and_nothing_else(crash: Crashed) -> None:
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
    assert [path.name for path in (crash.run / "checkpoints").glob(".local_i*")] == [".local_iteration_0000007"]
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
    assert sum(sizes) == 3 * total, "masters and moments are shared out"
    assert max(sizes) < 2 * total


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


def forget_seal(crash: Crashed) -> None:
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
            forget_seal,
            "iteration 7 of rank 1 on NODE: rank.json: [Errno 2] No such file or directory",
            marks=pytest.mark.full,
        ),
    ],
    ids=["missing", "damaged", "changed", "unsealed"],
)
def test_what_a_rank_lacks_leads_back_to_the_shared_checkpoint(
    act: Callable[[Crashed], None], reason: str, crash: Crashed, pool: WorkerPool
) -> None:
    act(crash.again())
    (first, lines), (second, others) = pool.run(2, local_jobs.resumed, crash.config)
    assert (first, second, others) == (5, 5, [])
    assert lines[0].startswith(f"no local checkpoint is used: {reason.replace('NODE', platform.node())}")
    assert not any("no local checkpoint" in line for line in lines[1:])
    assert saved_iterations(crash.run) == [8, 5]
    assert list(crash.local.iterdir()) == []


def test_the_newest_that_all_ranks_have_is_used(crash: Crashed, pool: WorkerPool) -> None:
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


def test_newer_shared_checkpoint_wins_and_a_run_that_was_set_back_stays_there(crash: Crashed, pool: WorkerPool) -> None:
    crash.again()
    shared_only = crash.with_settings(checkpoint={"local_folder": None, "local_interval": None})
    assert pool.run(2, jobs.resumed_iteration, shared_only) == [5, 5]
    assert saved_iterations(crash.run) == [8, 5]
    longer = crash.with_settings(training={"train_iters": CRASH + 1}, schedule={"lr_decay_iters": CRASH})
    runs = pool.run(2, local_jobs.resumed, longer)
    assert [iteration for iteration, _ in runs] == [8, 8]
    assert runs[0][1][0] == "no local checkpoint is used: no rank has one after iteration 8"

    crash.again()
    pool.run(2, jobs.resumed_iteration, shared_only)
    write_latest(crash.run, 5)
    runs = pool.run(2, local_jobs.resumed, longer)
    assert [iteration for iteration, _ in runs] == [5, 5]
    assert runs[0][1][0] == "no local checkpoint is used: the run was set back to iteration 5"


def test_run_folder_that_begins_anew_does_not_go_on_from_the_nodes(crash: Crashed, pool: WorkerPool) -> None:
    shutil.rmtree(crash.again().run)
    [(first, lines), _] = pool.run(2, local_jobs.resumed, crash.config)
    assert (first, [line for line in lines if "is used" in line]) == (0, [])
    assert list(crash.local.iterdir()) == []


def test_checkpoints_name_the_attempt_that_all_ranks_made_together(crash: Crashed, pool: WorkerPool) -> None:
    crash.again()
    longer = crash.with_settings(training={"train_iters": 10}, schedule={"lr_decay_iters": CRASH})
    assert pool.run(2, local_jobs.crashed, longer, 9) == [True, True]
    of_ranks = [[read_contents(crash.rank_folder(rank, iteration)).attempt for iteration in (7, 8)] for rank in (0, 1)]
    assert of_ranks[0] == of_ranks[1]
    assert of_ranks[0][0] != of_ranks[0][1]


@pytest.mark.full
def test_killed_ranks_go_on_from_what_both_have(pool: WorkerPool, make_config: Any, tmp_path: Path) -> None:
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
    assert lines[0] == f"the local checkpoint of iteration {first} is newer than the shared ones: it is used"
    assert saved_iterations(ranks.run) == [max(written) + 2]


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


def test_full_disk_costs_local_checkpoints_alone(crash: Crashed, pool: WorkerPool) -> None:
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


def test_signal_saves_a_shared_checkpoint_of_what_was_local(crash: Crashed, pool: WorkerPool) -> None:
    crash.again()
    says = pool.run(2, local_jobs.stopped, crash.config)
    assert says == ["SIGTERM: saved iteration 7; run the same command again to resume"] * 2
    assert saved_iterations(crash.run) == [7, 5]
    assert list(crash.local.iterdir()) == []
    assert list((crash.run / "checkpoints").glob(".local_*")) == []
    assert pool.run(2, jobs.resumed_iteration, crash.config) == [7, 7]


def test_folder_that_cannot_be_written_is_refused_on_all_ranks(
    pool: WorkerPool, make_config: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    rule = {**TWO_LEVELS, "local_folder": str(tmp_path / "file" / "local")}
    first, second = pool.run(2, jobs.refused, make_config("run", checkpoint=rule))
    assert first == second
    assert first.startswith(f"checkpoint.local_folder = {rule['local_folder']}\n")
    assert f"rank 0 on {platform.node()} cannot write there: [Errno 20] Not a directory" in first


def test_steps_without_a_save_cost_nothing_more(pool: WorkerPool, make_config: Any, tmp_path: Path) -> None:
    rule = {"local_folder": str(tmp_path / "local"), "local_interval": 4, "save_interval": 100, "async_save": False}
    config = make_config("run", training={"train_iters": 8, "log_interval": 100, "eval_iters": 0}, checkpoint=rule)
    assert pool.run(2, callback_jobs.collectives_by_iteration, config, 2)[0][:7] == [1, 1, 1, 2, 1, 1, 1]
    again = make_config("again", training={"train_iters": 8, "log_interval": 100, "eval_iters": 0}, checkpoint=rule)
    assert pool.run(1, local_jobs.device_waits, again)[0][:7] == [0, 0, 0, 4, 0, 0, 0]
