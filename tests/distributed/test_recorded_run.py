"""A small run that uses most of the trainer leaves what it always left: losses, rates, norms, counts and files.

The numbers are those of a trainer whose losses, gradient norms and learning rates had been compared with a loop of
transformers' Mistral and torch's AdamW. A change that is meant to change them replaces them.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
from pool import WorkerPool
from tiny import VOCAB_SIZE

from megatron_ipt.checkpointing.layout import CONTENTS_NAME, iteration_folder, read_latest, saved_iterations
from megatron_ipt.corpus.indexed_writer import LOSS_MASK_SUFFIX, IndexedWriter
from megatron_ipt.corpus.manifest import read_manifest
from megatron_ipt.observability.metrics import read_metrics

pytestmark = pytest.mark.distributed

STEPS = 12
FLOPS_PER_TOKEN = 1_254_912
SECTIONS: dict[str, dict[str, Any]] = {
    "training": {
        "train_iters": STEPS,
        "log_interval": 2,
        "eval_interval": 6,
        "eval_iters": 2,
        "rampup_batch_size": [4, 4, 16],
        "calculate_per_token_loss": True,
        "z_loss_coeff": 1e-3,
    },
    "optimizer": {"lr": 3e-3, "min_lr": 3e-4, "clip_grad": 0.5, "weight_decay": 0.1},
    "checkpoint": {"save_interval": 4, "keep_last": 2},
    "tracking": {"tensorboard": True},
}
SHARDED = {"use_distributed_optimizer": True, "overlap_grad_reduce": True, "overlap_param_gather": True}
RECORDED: dict[str, list[float]] = {
    "consumed_train_samples": [8, 16, 32, 48, 64, 80],
    "consumed_train_tokens": [256, 512, 1024, 1536, 2048, 2560],
    "lm_loss": [5.53195, 5.30525, 5.12092, 4.84655, 4.68632, 4.57689],
    "learning_rate": [0.0015, 0.00297949, 0.00268416, 0.00188443, 0.000975, 0.000381415],
    "grad_norm": [1.93539, 1.78004, 3.27927, 2.56148, 1.76106, 1.81085],
    "skipped_steps": [0, 0, 0, 0, 0, 0],
    "source_loss/plain": [5.52998, 5.32455, 5.09984, 4.85627, 4.68258, 4.56627],
    "source_loss/masked": [5.54143, 5.18947, 5.23493, 4.79087, 4.70812, 4.64604],
    "source_tokens/plain": [192, 192, 384, 384, 384, 384],
    "source_tokens/masked": [40, 32, 71, 67, 66, 59],
    "validation_loss": [5.54444, 4.82202, 4.45299],
}


@pytest.fixture(scope="module")
def blend(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Documents that end in EOS, and as many of which half the tokens bear loss."""
    folder, generator = tmp_path_factory.mktemp("blend"), np.random.default_rng(5)
    for name in ("plain", "masked"):
        lengths = generator.integers(6, 41, size=300)
        ids = [
            np.append((np.arange(length - 1) * generator.integers(1, 9)) % 250, VOCAB_SIZE - 1) for length in lengths
        ]
        with IndexedWriter(folder / name, VOCAB_SIZE) as writer:
            writer.add(np.concatenate(ids).astype(np.uint16), lengths)
    with IndexedWriter(folder / f"masked{LOSS_MASK_SUFFIX}", VOCAB_SIZE) as writer:
        writer.add(generator.integers(0, 2, lengths.sum()).astype(np.uint16), lengths)
    return [{"prefix": str(folder / "plain"), "weight": 3}, {"prefix": str(folder / "masked"), "weight": 1}]


@pytest.fixture(scope="module")
def make_recorded(make_module_config: Any, blend: list[dict[str, Any]]) -> Any:
    packed = {"blend": blend, "reset_attention_mask": True, "reset_position_ids": True}
    return partial(make_module_config, data=packed, **SECTIONS)


@pytest.fixture(scope="module")
def undisturbed(pool: WorkerPool, make_recorded: Any) -> Path:
    config = make_recorded("undisturbed")
    assert pool.run(1, jobs.pretrain, config) == [STEPS]
    return Path(config["run"])


def assert_recorded(run: Path) -> None:
    rows = list(read_metrics(run / "metrics.jsonl"))
    for name, expected in RECORDED.items():
        values = [row[name] for row in rows if name in row]
        assert values == pytest.approx(expected, rel=1e-4), name


def test_one_rank(undisturbed: Path) -> None:
    assert_recorded(undisturbed)


def test_two_ranks(pool: WorkerPool, make_recorded: Any) -> None:
    config = make_recorded("two", parallel=SHARDED)
    assert pool.run(2, jobs.pretrain, config) == [STEPS] * 2
    assert_recorded(Path(config["run"]))


def test_speeds_follow_from_the_seconds_of_a_step(undisturbed: Path) -> None:
    rows = [row for row in read_metrics(undisturbed / "metrics.jsonl") if "lm_loss" in row]
    tokens_before = 0
    for row in rows:
        tokens_per_step = (row["consumed_train_tokens"] - tokens_before) / 2
        tokens_before = row["consumed_train_tokens"]
        assert row["tokens_per_second"] * row["step_seconds"] == pytest.approx(tokens_per_step)
        assert row["tflops_per_rank"] * 1e12 / row["tokens_per_second"] == pytest.approx(FLOPS_PER_TOKEN, rel=1e-6)
        assert row["data_wait_share"] * row["step_seconds"] == pytest.approx(row["data_wait_seconds"])
        assert 0 < row["data_wait_seconds"] < row["step_seconds"]
        assert 0 < row["compute_seconds"] < row["step_seconds"]
        assert 0 < row["goodput"] < 1
        assert 0.1 < row["memory_gib"] <= row["peak_memory_gib"] < 8


def test_files_and_counts(undisturbed: Path) -> None:
    assert (saved_iterations(undisturbed), read_latest(undisturbed)) == ([12, 8], 12)
    contents = json.loads((iteration_folder(undisturbed, STEPS) / CONTENTS_NAME).read_text(encoding="utf-8"))
    assert contents["consumed_train_samples"] == 80
    assert contents["validation_loss"] == pytest.approx(RECORDED["validation_loss"][-1], rel=1e-4)
    manifest = read_manifest(undisturbed)
    assert manifest is not None
    assert (manifest.status, manifest.counts) == ("complete", {"iteration": STEPS, "consumed_train_samples": 80})
    assert len(list((undisturbed / "index_cache").rglob("*.npy"))) == 16


def test_run_that_is_stopped_twice_leaves_the_same(pool: WorkerPool, make_recorded: Any, undisturbed: Path) -> None:
    for interval in (5, 10, STEPS):
        config = make_recorded("stopped")
        config["training"]["exit_interval"] = interval
        assert pool.run(1, jobs.pretrain, config) == [interval]
    rows, expected = (
        [{name: row.get(name) for name in ("iteration", *RECORDED)} for row in read_metrics(run / "metrics.jsonl")]
        for run in (Path(config["run"]), undisturbed)
    )
    assert [row for row in rows if row["lm_loss"]] == [row for row in expected if row["lm_loss"]]
    weights, expected_weights = (
        pool.run(1, jobs.weight_hashes, str(iteration_folder(run, STEPS)))[0]
        for run in (Path(config["run"]), undisturbed)
    )
    assert len(weights) > 10
    assert weights == expected_weights
