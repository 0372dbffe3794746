"""Each source's training loss is what transformers computes on its samples, and together they are the whole loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import conversion_jobs
import jobs
import numpy as np
import pytest
import source_jobs
from pool import WorkerPool
from tiny import VOCAB_SIZE, tiny_config

from megatron_ipt.corpus.indexed_writer import LOSS_MASK_SUFFIX, IndexedWriter
from megatron_ipt.observability.metrics import read_metrics

pytestmark = pytest.mark.distributed

BOUNDARY = 120  # tokens of source low lie below, those of source high above
NO_CHANGE = {"optimizer": {"lr": 0.0, "min_lr": 0.0}, "schedule": {"lr_warmup_iters": 0}}
TRAINING = {"train_iters": 4, "log_interval": 2, "eval_iters": 0}
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "pp2 interleaved": (2, {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 2}),
    "dp2 distributed optimizer": (2, {"use_distributed_optimizer": True}),
    "tp2 pp2": (4, {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2}),
}


def write(prefix: Path, documents: list[Any]) -> None:
    with IndexedWriter(prefix, VOCAB_SIZE) as writer:
        for ids in documents:
            writer.add(ids.astype(np.uint16), np.array([ids.size]))


@pytest.fixture(scope="module")
def blend(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two sources with vocabularies of their own; of the second only some tokens bear loss."""
    folder = tmp_path_factory.mktemp("sources")
    generator = np.random.default_rng(3)
    lengths = generator.integers(20, 90, size=(2, 60))
    write(folder / "low", [generator.integers(0, 110, size=length) for length in lengths[0]])
    write(folder / "high", [generator.integers(BOUNDARY, 230, size=length) for length in lengths[1]])
    write(folder / f"high{LOSS_MASK_SUFFIX}", [generator.integers(0, 2, size=length) for length in lengths[1]])
    return [{"prefix": str(folder / "low"), "weight": 3.0}, {"prefix": str(folder / "high"), "weight": 1.0}]


@pytest.fixture(scope="module")
def seed(
    pool: WorkerPool, dataset: dict[str, str], blend: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Weights as a run and as a Hugging Face folder, and what transformers makes of the first 32 samples."""
    folder = tmp_path_factory.mktemp("seed")
    config = tiny_config(
        dataset,
        folder / "run",
        data={"blend": blend, "split": "1"},
        training={"train_iters": 1, "eval_iters": 0},
        **NO_CHANGE,
    )
    pool.run(1, jobs.pretrain, config)
    settings = {"direction": "mcore-to-hf", "input": config["run"], "output": str(folder / "hf"), "parity_check": False}
    pool.run(1, conversion_jobs.convert, settings)
    [expected] = pool.run(1, source_jobs.losses_of_sources, config, settings["output"], 32, BOUNDARY)
    return {"run": config["run"], "expected": expected}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses_of_sources(
    layout: str, pool: WorkerPool, make_config: Any, blend: list[dict[str, Any]], seed: dict[str, Any]
) -> None:
    world_size, parallel = LAYOUTS[layout]
    config = make_config(
        "run",
        parallel=parallel,
        data={"blend": blend, "split": "1"},
        training=TRAINING,
        checkpoint={"pretrained_checkpoint": seed["run"]},
        **NO_CHANGE,
    )
    pool.run(world_size, jobs.pretrain, config)
    rows = [row for row in read_metrics(Path(config["run"]) / "metrics.jsonl") if "lm_loss" in row]
    assert len(rows) == 2
    for row in rows:
        tokens = {name: row[f"source_tokens/{name}"] for name in ("low", "high")}
        together = sum(row[f"source_loss/{name}"] * count for name, count in tokens.items()) / sum(tokens.values())
        assert together == pytest.approx(row["lm_loss"], rel=1e-6)
    for name in ("low", "high"):
        tokens = [row[f"source_tokens/{name}"] for row in rows]
        mean = sum(row[f"source_loss/{name}"] * count for row, count in zip(rows, tokens, strict=True)) / sum(tokens)
        assert mean == pytest.approx(seed["expected"][name], rel=1e-5)
    assert rows[0]["source_tokens/low"] > 4 * rows[0]["source_tokens/high"]  # 3 to 1 samples, half of them masked
