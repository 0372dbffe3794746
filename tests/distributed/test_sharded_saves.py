"""Checkpoints of a distributed optimizer: each rank saves and loads its own share, and every layout reads them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jobs
import pytest
import sharding_jobs
from pool import WorkerPool
from tiny import losses

from megatron_ipt.checkpointing.layout import iteration_folder

pytestmark = pytest.mark.distributed

RANKS = 4
SHARDED = {"use_distributed_optimizer": True}
STEPS = {"train_iters": 6, "eval_iters": 0}
MODEL = {"num_layers": 4, "hidden_size": 512, "ffn_hidden_size": 1376, "num_attention_heads": 8, "vocab_size": 8192}
MASTERS_AND_MOMENTS, WEIGHTS = 12, 2  # bytes a parameter, in bf16


def test_memory_and_files_of_a_rank_are_its_share(pool: WorkerPool, tmp_path: Path) -> None:
    given = {
        "run": "none",
        "model": MODEL,
        "data": {"tokenizer": "none", "seq_length": 32},
        "parallel": SHARDED,
        "precision": {"transformer_impl": "local"},
        "training": {"global_batch_size": RANKS},
    }
    share = (MASTERS_AND_MOMENTS + WEIGHTS) / RANKS
    measured = pool.run(RANKS, sharding_jobs.measure_save_and_load, given, str(tmp_path))
    print("bytes a parameter:", measured)
    for rank in measured:
        assert rank["written"] == pytest.approx(share, rel=0.1)
        assert rank["save"] < share + 0.5
        assert rank["load"] < share + WEIGHTS + 0.5


@pytest.mark.parametrize(
    ("world_size", "parallel"),
    [
        (2, SHARDED),
        (1, SHARDED),
        (4, {**SHARDED, "tensor_model_parallel_size": 2}),
        (4, {**SHARDED, "tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2}),
    ],
    ids=["dp2", "dp1", "tp2 dp2", "tp2 pp2"],
)
def test_checkpoint_of_dp4_goes_on_in_another_layout(
    world_size: int,
    parallel: dict[str, Any],
    stopped: Path,
    undisturbed: list[float],
    pool: WorkerPool,
    make_config: Any,
) -> None:
    config = make_config("other", parallel=parallel, training=STEPS)
    shutil.copytree(stopped, config["run"])
    assert pool.run(world_size, jobs.resumed_iteration, config) == [3] * world_size
    assert losses(config["run"]) == pytest.approx(undisturbed, rel=1e-5)


def test_checkpoint_is_what_earlier_versions_wrote(
    stopped: Path, undisturbed: list[float], pool: WorkerPool, make_config: Any
) -> None:
    former = make_config("former", parallel=SHARDED, training={**STEPS, "exit_interval": 3})
    pool.run(RANKS, sharding_jobs.pretrain_saving_as_before, former)
    before, now = (
        pool.run(1, jobs.weight_hashes, str(iteration_folder(run, 3)))[0] for run in (Path(former["run"]), stopped)
    )
    assert now == before
    assert sum(name.startswith("optimizer.state.exp_avg_sq.") for name in now) == 9
    pool.run(2, jobs.pretrain, make_config("former", parallel=SHARDED, training=STEPS))
    assert losses(former["run"]) == pytest.approx(undisturbed, rel=1e-5)


@pytest.fixture(scope="module")
def stopped(pool: WorkerPool, make_module_config: Any) -> Path:
    """A run of four data-parallel ranks that has stopped half-way."""
    config = make_module_config("stopped", parallel=SHARDED, training={**STEPS, "exit_interval": 3})
    assert pool.run(RANKS, jobs.pretrain, config) == [3] * RANKS
    return Path(config["run"])


@pytest.fixture(scope="module")
def undisturbed(pool: WorkerPool, make_module_config: Any) -> list[float]:
    """The losses of that run to its end."""
    config = make_module_config("undisturbed", parallel=SHARDED, training=STEPS)
    pool.run(RANKS, jobs.pretrain, config)
    return losses(config["run"])
