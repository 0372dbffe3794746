"""Every layout trains the same model: from one checkpoint, the losses of one rank."""

from __future__ import annotations

from typing import Any

import jobs
import pytest
from pool import WorkerPool
from tiny import losses, tiny_config

pytestmark = pytest.mark.distributed

LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "tp2": (2, {"tensor_model_parallel_size": 2}),
    "tp2 sequence parallel": (2, {"tensor_model_parallel_size": 2, "sequence_parallel": True}),
    "pp2": (2, {"pipeline_model_parallel_size": 2}),
    "pp2 interleaved": (2, {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 2}),
    "dp2": (2, {}),
    "dp2 overlap": (2, {"overlap_grad_reduce": True}),
    "dp2 distributed optimizer": (
        2,
        {"use_distributed_optimizer": True, "overlap_grad_reduce": True, "overlap_param_gather": True},
    ),
    "recompute": (1, {"recompute_granularity": "full"}),
    "recompute tp2 sequence parallel": (
        2,
        {"tensor_model_parallel_size": 2, "sequence_parallel": True, "recompute_granularity": "full"},
    ),
    "recompute attention pp2": (2, {"pipeline_model_parallel_size": 2, "recompute_granularity": "selective"}),
    "tp2 pp2": (4, {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2}),
}


@pytest.fixture(scope="module")
def seed_checkpoint(pool: WorkerPool, dataset: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of initial weights: one step with a learning rate of zero."""
    run = tmp_path_factory.mktemp("seed") / "run"
    config = tiny_config(
        dataset, run, training={"train_iters": 1}, optimizer={"lr": 0.0, "min_lr": 0.0}, schedule={"lr_warmup_iters": 0}
    )
    pool.run(1, jobs.pretrain, config)
    return str(run)


@pytest.fixture(scope="module")
def one_rank_losses(
    pool: WorkerPool, dataset: dict[str, str], seed_checkpoint: str, tmp_path_factory: pytest.TempPathFactory
) -> list[float]:
    run = tmp_path_factory.mktemp("one") / "run"
    pool.run(1, jobs.pretrain, tiny_config(dataset, run, checkpoint={"pretrained_checkpoint": seed_checkpoint}))
    return losses(str(run))


def test_one_rank_learns(one_rank_losses: list[float]) -> None:
    assert len(one_rank_losses) == 20
    assert one_rank_losses[-1] < one_rank_losses[0] - 0.2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_gives_the_losses_of_one_rank(
    layout: str,
    pool: WorkerPool,
    make_config: Any,
    seed_checkpoint: str,
    one_rank_losses: list[float],
) -> None:
    world_size, parallel = LAYOUTS[layout]
    config = make_config("run", parallel=parallel, checkpoint={"pretrained_checkpoint": seed_checkpoint})
    pool.run(world_size, jobs.pretrain, config)
    assert losses(config["run"]) == pytest.approx(one_rank_losses, rel=1e-5)
