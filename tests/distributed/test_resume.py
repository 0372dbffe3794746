"""A resumed run is the run that never stopped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import callback_jobs
import jobs
import pytest
from pool import WorkerPool
from tiers import tiered
from tiny import losses

from megatron_ipt.checkpointing.layout import RUN_CONFIG_NAME, iteration_folder, saved_iterations
from megatron_ipt.config.loading import load_recorded
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.observability.metrics import read_metrics

pytestmark = pytest.mark.distributed

SHARDED = {"use_distributed_optimizer": True, "overlap_grad_reduce": True, "overlap_param_gather": True}
STEPS = 8
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "one rank": (1, {"model": {"hidden_dropout": 0.1, "attention_dropout": 0.1}}),
    "tp2": (2, {"parallel": {"tensor_model_parallel_size": 2}}),
    "dp2 distributed optimizer": (2, {"parallel": SHARDED}),
    "dp2 distributed optimizer bf16": (2, {"parallel": SHARDED, "precision": {"bf16": True}}),
}


@pytest.mark.parametrize("case", tiered(CASES, ["one rank", "tp2", "dp2 distributed optimizer bf16"]))
def test_resumed_run_is_bitwise_the_undisturbed_one(case: str, pool: WorkerPool, make_config: Any) -> None:
    world_size, sections = CASES[case]
    # without a validation, whose forward pass would gather the updated weights ahead of the save
    steps = {"train_iters": STEPS, "eval_iters": 0}
    undisturbed = make_config("undisturbed", training=steps, **sections)
    pool.run(world_size, jobs.pretrain, undisturbed)
    stopped = make_config("stopped", training={**steps, "exit_interval": 3}, **sections)
    assert pool.run(world_size, jobs.pretrain, stopped)[0] == 3
    resumed = make_config("stopped", training=steps, **sections)
    assert pool.run(world_size, jobs.pretrain, resumed)[0] == STEPS

    assert losses(resumed["run"]) == losses(undisturbed["run"])
    resumed_weights, weights = (
        pool.run(1, jobs.weight_hashes, str(iteration_folder(Path(config["run"]), STEPS)))[0]
        for config in (resumed, undisturbed)
    )
    assert len(weights) > 10
    assert resumed_weights == weights


def test_dropout_differs_by_pipeline_stage_and_by_iteration(pool: WorkerPool, make_config: Any) -> None:
    """The seeds of the stages are those of Megatron-LM, 100 apart; those of two iterations are further apart."""
    training = {"train_iters": 3, "eval_iters": 0, "seed": 7}
    stages = {"pipeline_model_parallel_size": 2}
    config = make_config("run", model={"hidden_dropout": 0.1}, parallel=stages, training=training)
    first, second = pool.run(2, callback_jobs.seeds_of_steps, config)
    assert first == [7 + 100_003 * iteration for iteration in (1, 2, 3)]
    assert second == [100 + seed for seed in first]


def test_saved_weights_are_the_rounded_masters(pool: WorkerPool, make_config: Any) -> None:
    """megatron-core gathers updated parameters in the next forward pass, which must not be too late for a save."""
    config = make_config(
        "run", parallel=SHARDED, precision={"bf16": True}, checkpoint={"save_interval": 2}, training={"train_iters": 5}
    )
    pool.run(2, jobs.pretrain, config)
    for iteration in (2, 4, 5):
        stale = pool.run(1, jobs.stale_weights, str(iteration_folder(Path(config["run"]), iteration)))[0]
        assert stale == dict.fromkeys(stale, 0)
        assert len(stale) == 9


@pytest.mark.parametrize(
    ("world_size", "parallel"),
    [
        pytest.param(1, {}, id="tp1", marks=pytest.mark.full),
        pytest.param(2, {"pipeline_model_parallel_size": 2}, id="pp2"),
        pytest.param(2, {"use_distributed_optimizer": True}, id="dp2 distributed optimizer", marks=pytest.mark.full),
    ],
)
def test_checkpoint_of_tp2_goes_on_in_another_layout(
    world_size: int, parallel: dict[str, Any], pool: WorkerPool, make_config: Any
) -> None:
    tensor_parallel = {
        "tensor_model_parallel_size": 2,
        "use_distributed_optimizer": "use_distributed_optimizer" in parallel,
    }
    steps = {"train_iters": STEPS}
    config = make_config("tp2", parallel=tensor_parallel, training={**steps, "exit_interval": STEPS // 2})
    pool.run(2, jobs.pretrain, config)
    shutil.copytree(config["run"], Path(config["run"]).with_name("other"))
    pool.run(2, jobs.pretrain, make_config("tp2", parallel=tensor_parallel, training=steps))
    pool.run(world_size, jobs.pretrain, make_config("other", parallel=parallel, training=steps))
    other = losses(Path(config["run"]).with_name("other"))
    assert len(other) == STEPS
    assert other == pytest.approx(losses(config["run"]), rel=1e-5)


def test_world_size_changed_twice_reads_every_sample_once_and_in_order(pool: WorkerPool, make_config: Any) -> None:
    """Two ranks, then four, then one: the samples of each step in the order of micro-batches and ranks."""
    sharded = {"use_distributed_optimizer": True}
    read: list[int] = []
    for world_size, last in ((2, 3), (4, 5), (1, STEPS)):
        # what the first start named holds for the later ones, which leave it open
        named = sharded if last == 3 else {}
        config = make_config("changed", parallel=named, training={"train_iters": STEPS, "exit_interval": last})
        by_rank = pool.run(world_size, jobs.traced_pretrain, config)
        micro_batches = [list(zip(*[iter(samples)] * 2, strict=True)) for samples in by_rank]
        read += [index for together in zip(*micro_batches, strict=True) for pair in together for index in pair]
    assert read == list(range(STEPS * 8))
    recorded = load_recorded(PretrainConfig, Path(config["run"]) / RUN_CONFIG_NAME).parallel
    assert (recorded.use_distributed_optimizer, recorded.overlap_grad_reduce) == (True, False)

    undisturbed = make_config("undisturbed", parallel=sharded, training={"train_iters": STEPS})
    pool.run(1, jobs.pretrain, undisturbed)
    assert losses(config["run"]) == pytest.approx(losses(undisturbed["run"]), rel=1e-5)


def test_finished_run_with_other_settings_is_not_skipped(pool: WorkerPool, make_config: Any) -> None:
    def config(train_iters: int, **sections: Any) -> dict[str, Any]:
        training = {"train_iters": train_iters, "eval_iters": 0, **sections.pop("training", {})}
        return make_config("run", training=training, schedule={"lr_warmup_iters": 1}, **sections)

    other_rate = {"optimizer": {"lr": 2e-3}}
    pool.run(1, jobs.pretrain, config(3))
    assert "optimizer.lr was 0.001, is 0.002" in pool.run(1, jobs.refused, config(3, **other_rate))[0]
    assert "training.train_iters was 3, is 2" in pool.run(1, jobs.refused, config(2))[0]
    assert pool.run(1, jobs.pretrain, config(3, training={"log_interval": 2})) == [3]
    assert pool.run(1, jobs.pretrain, config(4, **other_rate)) == [4]


def test_attempt_without_a_checkpoint_binds_nothing(pool: WorkerPool, make_config: Any) -> None:
    """A run that failed before its first checkpoint leaves a configuration and a manifest, and nothing to keep."""
    diverging = make_config("run", optimizer={"lr": 1e30}, schedule={"lr_warmup_iters": 0})
    assert "lower the learning rate" in pool.run(1, jobs.refused, diverging)[0]
    assert (Path(diverging["run"]) / "manifest.json").is_file()
    short = {"train_iters": 2, "eval_iters": 0}
    other = make_config("run", model={"num_layers": 2}, training=short, schedule={"lr_warmup_iters": 0})
    assert pool.run(1, jobs.pretrain, other) == [2]


def test_checkpoints_are_kept_by_rule(pool: WorkerPool, make_config: Any) -> None:
    rule = {"save_interval": 2, "keep_last": 2, "keep_every": 8, "keep_best": 1}
    diverging = {"lr": 1.0, "min_lr": 1.0, "clip_grad": 0.0}
    config = make_config("run", checkpoint=rule, training={"eval_interval": 2}, optimizer=diverging)
    pool.run(1, jobs.pretrain, config)
    kept = saved_iterations(Path(config["run"]))
    best = min(measured(config["run"]), key=lambda row: row[1])[0]
    assert best not in {8, 16, 18, 20}
    assert kept == sorted({20, 18, 16, 8, best}, reverse=True)


def measured(run: str) -> list[tuple[int, float]]:
    """Iterations that have a checkpoint, with their validation losses."""
    rows = read_metrics(Path(run) / "metrics.jsonl")
    return [(row["iteration"], row["validation_loss"]) for row in rows if "validation_loss" in row and row["iteration"]]
