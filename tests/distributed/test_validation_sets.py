"""Sets that are validated on beside the split: each has the loss that training on its samples would report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
from pool import WorkerPool
from tiny import VOCAB_SIZE, losses

from megatron_ipt.corpus.indexed_writer import IndexedWriter
from megatron_ipt.observability.metrics import read_metrics

pytestmark = pytest.mark.distributed

BATCHES = 3
NO_CHANGE = {"optimizer": {"lr": 0.0, "min_lr": 0.0}, "schedule": {"lr_warmup_iters": 0}}
PP2 = {"pipeline_model_parallel_size": 2}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Random tokens of the lower half of the vocabulary, and a few of the upper half: less than two batches."""
    folder = tmp_path_factory.mktemp("sets")
    generator = np.random.default_rng(5)
    for name, documents, bounds in (("low", 60, (0, 128)), ("high", 8, (128, VOCAB_SIZE))):
        with IndexedWriter(folder / name, VOCAB_SIZE) as writer:
            for _ in range(documents):
                writer.add(generator.integers(*bounds, 60).astype(np.uint16), np.array([60]))
    return [{"name": name, "prefix": str(folder / name)} for name in ("low", "high")]


def validations(run: str) -> list[dict[str, Any]]:
    return [row for row in read_metrics(Path(run) / "metrics.jsonl") if any("validation" in name for name in row)]


def test_each_set_has_the_loss_of_its_samples(pool: WorkerPool, make_config: Any, sets: list[dict[str, str]]) -> None:
    def trained_on(one: dict[str, str], iterations: int) -> float:
        data = {"blend": [{"prefix": one["prefix"]}], "split": "1"}
        steps = {"train_iters": iterations, "log_interval": iterations, "eval_iters": 0}
        config = make_config(f"trained_{one['name']}", data=data, training=steps, **NO_CHANGE)
        pool.run(1, jobs.pretrain, config)
        return losses(config["run"])[0]

    low, high = trained_on(sets[0], BATCHES), trained_on(sets[1], 1)
    steps = {"train_iters": 1, "eval_iters": BATCHES}
    for world_size, parallel, split in ((1, {}, "1"), (4, PP2, "90,10,0")):
        data = {"validation_sets": sets, "split": split}
        config = make_config(f"run_{world_size}", data=data, training=steps, parallel=parallel, **NO_CHANGE)
        if parallel:  # layouts start from other weights
            config["checkpoint"]["pretrained_checkpoint"] = make_config("run_1")["run"]
        pool.run(world_size, jobs.pretrain, config)
        [row, _] = validations(config["run"])
        assert row["validation_loss/low"] == pytest.approx(low, rel=1e-5)
        assert row["validation_loss/high"] == pytest.approx(high, rel=1e-5)
        mean = (row["validation_loss/low"] + row["validation_loss/high"]) / 2
        assert (row["validation_loss"] == pytest.approx(mean, rel=1e-9)) == (split == "1")


def test_sets_change_nothing_in_training_and_may_come_later(
    pool: WorkerPool, make_config: Any, sets: list[dict[str, str]]
) -> None:
    steps = {"train_iters": 4}
    plain = make_config("plain", training=steps)
    pool.run(1, jobs.pretrain, plain)
    pool.run(1, jobs.pretrain, make_config("later", training={**steps, "exit_interval": 2}))
    later = make_config("later", training=steps, data={"validation_sets": sets})
    pool.run(1, jobs.pretrain, later)
    assert losses(later["run"]) == losses(plain["run"])
    first, *_, last = validations(later["run"])
    assert "validation_loss/low" not in first
    assert last["validation_loss/low"] != last["validation_loss"]
    assert last["validation_loss"] == validations(plain["run"])[-1]["validation_loss"]
