"""A training run on two nodes that is told to save, is preempted, loses a node, and is killed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Pipeline

from megatron_ipt.checkpointing.layout import read_latest
from megatron_ipt.observability.metrics import read_metrics

ITERATIONS = 300


@pytest.fixture(scope="module")
def dataset(quickstart_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    from megatron_ipt.config.stages import PreprocessConfig
    from megatron_ipt.tokenization.preprocessing import preprocess

    folder = tmp_path_factory.mktemp("data")
    raw = folder / "raw.jsonl"
    with (quickstart_inputs / "raw" / "boolq.jsonl").open(encoding="utf-8") as lines:
        raw.write_text("".join(line for line, _ in zip(lines, range(400), strict=False)), encoding="utf-8")
    tokenizer = str(quickstart_inputs / "tokenizer")
    preprocess(
        PreprocessConfig(
            input=[str(raw)], output_prefix=str(folder / "data" / "corpus"), tokenizer_model=tokenizer, append_eod=True
        )
    )
    return str(folder / "data" / "corpus_text_document")


def write_run(pipeline: Pipeline, dataset: str, tokenizer: Path) -> Path:
    run = pipeline.folder / "run"
    config: dict[str, Any] = {
        "run": str(run),
        "model": {"num_layers": 2},
        "data": {"tokenizer": str(tokenizer), "blend": [{"prefix": dataset}], "seq_length": 64},
        "training": {
            "train_iters": ITERATIONS,
            "micro_batch_size": 2,
            "global_batch_size": 2,
            "log_interval": 1,
            "eval_iters": 0,
        },
        "checkpoint": {"save_interval": 25},
        "tracking": {"tensorboard": False, "wandb_mode": "disabled"},
    }
    pipeline.write("pretrain", config)
    return run


def losses(run: Path) -> dict[int, float]:
    return {row["iteration"]: row["lm_loss"] for row in read_metrics(run / "metrics.jsonl") if "lm_loss" in row}


def reached(run: Path, iteration: int) -> bool:
    return (run / "metrics.jsonl").exists() and max(losses(run), default=0) >= iteration


def kill_ranks(pipeline: Pipeline) -> None:
    """End every rank as the kernel does where memory runs out. `scancel --signal=KILL` would cancel the job."""
    command = [sys.executable, "tools/pretrain_gpt.py", f"--config={pipeline.folder / 'configs' / 'pretrain.yaml'}"]
    ranks = [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == command]
    assert ranks
    for process in ranks:
        process.kill()


def test_a_signal_a_preemption_and_a_lost_node_change_nothing(
    pipeline: Pipeline, dataset: str, quickstart_inputs: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cluster = pipeline.cluster
    undisturbed = Pipeline(cluster, tmp_path_factory.mktemp("undisturbed"))
    expected = write_run(undisturbed, dataset, quickstart_inputs / "tokenizer")
    undisturbed.wait_until_done(undisturbed.submit(), 200)

    run = write_run(pipeline, dataset, quickstart_inputs / "tokenizer")
    jobs = pipeline.submit()
    job = jobs["pretrain"]

    cluster.wait_for(lambda: reached(run, 40), 90)
    cluster.run("scancel", "--signal=USR1", job)  # as --signal=USR1@120 does ahead of the time limit
    cluster.wait_for(lambda: cluster.job(job)["Restarts"] == "1", 60)

    cluster.wait_for(lambda: reached(run, 100), 90)
    urgent = [
        "sbatch",
        "--parsable",
        "--partition=urgent",
        "--nodes=2",
        "--exclusive",
        "--time=1",
        "--output=/dev/null",
    ]
    cluster.run(*urgent, "--wrap=sleep 1")
    cluster.wait_for(lambda: cluster.job(job)["Restarts"] == "2", 60)

    cluster.wait_for(lambda: reached(run, 180), 120)
    cluster.power_off("n2")
    cluster.wait_for(lambda: cluster.job(job)["Restarts"] == "3", 90)
    cluster.power_on("n2")

    pipeline.wait_until_done(jobs, 200)
    assert losses(run) == losses(expected)
    assert len(losses(run)) == ITERATIONS
    progress = json.loads((run / "manifest.json").read_text())
    assert progress["status"] == "complete"


def test_a_killed_run_is_requeued_only_after_a_new_checkpoint(
    pipeline: Pipeline, dataset: str, quickstart_inputs: Path
) -> None:
    cluster = pipeline.cluster
    run = write_run(pipeline, dataset, quickstart_inputs / "tokenizer")
    job = pipeline.submit()["pretrain"]
    cluster.wait_for(lambda: read_latest(run) is not None, 90)
    kill_ranks(pipeline)
    cluster.wait_for(lambda: cluster.job(job)["Restarts"] == "1", 60)
    assert "requeued: restart 1" in pipeline.said()

    restarted = pipeline.folder / "logs" / "attempts" / f"{job}.1" / "start.json"
    cluster.wait_for(restarted.exists, 60)
    kill_ranks(pipeline)
    cluster.wait_for_state(job, "FAILED", timeout_seconds=60)
    assert cluster.job(job)["Restarts"] == "1"
    assert f"has finished nothing new in {run} since it started: not requeued" in pipeline.said()
