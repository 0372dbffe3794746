"""All stages of the quick start as Slurm jobs, on fewer texts."""

from __future__ import annotations

import json
import os
import subprocess
from itertools import islice
from pathlib import Path

import pytest
from conftest import ROOT, Pipeline

TEXTS = 40


@pytest.fixture
def inputs(quickstart_inputs: Path, tmp_path: Path) -> Path:
    """The quick start's inputs, with two short files of raw text and one example."""
    folder = tmp_path / "inputs"
    (folder / "raw").mkdir(parents=True)
    for name in ("tokenizer", "smollm2", "eval"):
        (folder / name).symlink_to(quickstart_inputs / name)
    with (quickstart_inputs / "examples.jsonl").open(encoding="utf-8") as lines:
        (folder / "examples.jsonl").write_text(next(lines), encoding="utf-8")
    with (quickstart_inputs / "raw" / "boolq.jsonl").open(encoding="utf-8") as lines:
        for name in ("first", "second"):
            (folder / "raw" / f"{name}.jsonl").write_text("".join(islice(lines, TEXTS)), encoding="utf-8")
    return folder


def write_synthesis(pipeline: Pipeline, inputs: Path, *, share: float) -> Path:
    output = pipeline.folder / "augmented"
    config = {
        "input": [str(inputs / "raw" / "*.jsonl")],
        "output": str(output),
        "examples": str(inputs / "examples.jsonl"),
        "augmented_fraction": share,
        "engine": {"model": str(inputs / "smollm2"), "batch_size": 4, "max_new_tokens": 32},
    }
    pipeline.write("synthesize", config)
    return output


def test_every_stage_runs_to_scores(pipeline: Pipeline, inputs: Path) -> None:
    folder, tokenizer = pipeline.folder, str(inputs / "tokenizer")
    augmented = write_synthesis(pipeline, inputs, share=0.1)
    preprocess = {"tokenizer_model": tokenizer}
    pipeline.write(
        "preprocess_augmented",
        {
            **preprocess,
            "input": [str(augmented / "augmented-*.jsonl")],
            "output_prefix": str(folder / "augmented_data/corpus"),
        },
    )
    pipeline.write(
        "preprocess_raw",
        {**preprocess, "input": [str(inputs / "raw" / "*.jsonl")], "output_prefix": str(folder / "raw_data/corpus")},
    )
    pipeline.write(
        "mix",
        {
            "datasets": {name: str(folder / f"{name}_data" / "corpus_text_document") for name in ("raw", "augmented")},
            "variants": {"instruct": {"augmented": {"weight": 2}, "raw": {"weight": 1}}},
            "output": str(folder / "blends"),
            "tokens": 20 * 8 * 64,
            "seq_length": 64,
            "global_batch_size": 8,
            "split": "90,10,0",
        },
    )
    pipeline.write(
        "pretrain",
        {
            "run": str(folder / "run"),
            "model": {"num_layers": 2},
            "data": {"tokenizer": tokenizer, "blend": [], "seq_length": 64, "split": "90,10,0"},
            "training": {"train_iters": 20, "micro_batch_size": 4, "eval_interval": 20, "eval_iters": 1},
            "schedule": {"lr_warmup_iters": 2},
            "checkpoint": {"save_interval": 20},
        },
    )
    pipeline.write("convert", {"input": str(folder / "run"), "output": str(folder / "hf")})
    pipeline.write(
        "evaluate",
        {
            "model": str(folder / "hf"),
            "output": str(folder / "eval"),
            "run": str(folder / "run"),
            "data_dir": str(inputs / "eval"),
            "limit": 2,
        },
    )
    jobs = pipeline.submit("--blend", str(folder / "blends" / "blend.instruct.yaml"))
    assert list(jobs) == ["synthesize", "preprocess", "mix", "pretrain", "convert", "evaluate"]
    pipeline.wait_until_done(jobs, 400)
    assert json.loads((folder / "augmented" / "manifest.json").read_text())["counts"]["pairs"] > 0
    assert (folder / "raw_data" / "corpus_text_document.bin").stat().st_size > 2 * TEXTS * 100
    assert pipeline.cluster.job(jobs["pretrain"])["NodeList"] == "n[1-2]"
    results = json.loads((folder / "eval" / "results.json").read_text())
    assert len(results["tasks"]) > 5


def test_synthesis_as_job_arrays(pipeline: Pipeline, inputs: Path) -> None:
    output = write_synthesis(pipeline, inputs, share=0.05)
    arrays = (
        "SYNTHESIZE_EXECUTOR=(executor.kind=slurm executor.workers=2 executor.partition=main executor.cpus_per_task=1)"
    )
    jobs = pipeline.submit(site=arrays + "\n")
    pipeline.wait_until_done(jobs, 200)
    assert json.loads((output / "manifest.json").read_text())["counts"]["texts"] == 2 * TEXTS
    assert {path.name for path in (output / "logs").iterdir()} == {"generate", "settle", "finish", "collect"}


def test_synthesis_whose_server_is_down_is_not_requeued_again_and_again(pipeline: Pipeline, inputs: Path) -> None:
    output = pipeline.folder / "augmented"
    server = {"url": "http://127.0.0.1:9/v1", "max_retries": 0}
    engine = {"kind": "endpoint", "model": "none", "tokenizer": str(inputs / "tokenizer"), "endpoint": server}
    config = {"input": [str(inputs / "raw" / "first.jsonl")], "output": str(output), "engine": engine}
    pipeline.write("synthesize", {**config, "examples": str(inputs / "examples.jsonl"), "augmented_fraction": 0.5})
    job = pipeline.submit()["synthesize"]
    pipeline.cluster.wait_for_state(job, "FAILED", timeout_seconds=90)
    state = pipeline.cluster.job(job)
    assert (state["ExitCode"], state["Restarts"]) == (f"{os.EX_TEMPFAIL}:0", "0")
    assert "the server no longer responds (no connection" in pipeline.said()
    assert f"has finished nothing new in {output} since it started: not requeued" in pipeline.said()


def test_dry_run_submits_nothing(pipeline: Pipeline, inputs: Path) -> None:
    write_synthesis(pipeline, inputs, share=0.1)
    before = pipeline.cluster.run("squeue", "--states=all", "--noheader").stdout
    command = ["slurm/submit_pipeline.sh", "--dry-run", str(pipeline.folder / "configs")]
    assert "'sbatch' '--parsable'" in pipeline.cluster.run(*command, cwd=ROOT).stdout
    assert pipeline.cluster.run("squeue", "--states=all", "--noheader").stdout == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere"], "no such folder"),
        (["--site", "nowhere", "examples/quickstart_cpu"], "no such file"),
        (["--wait", "examples/quickstart_cpu"], "--wait: no such option"),
        (["examples/quickstart_cpu", "train"], "train: no such stage"),
        (["docs"], "holds no configuration"),
    ],
)
def test_wrong_input_is_refused(arguments: list[str], reason: str) -> None:
    done = subprocess.run(
        ["slurm/submit_pipeline.sh", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert reason in done.stderr
    assert "remedy" in done.stderr


def test_a_mistake_in_the_last_stage_is_told_before_the_first(pipeline: Pipeline, inputs: Path) -> None:
    write_synthesis(pipeline, inputs, share=0.1)
    pipeline.write("evaluate", {"limits": 3})
    command = ["slurm/submit_pipeline.sh", "--dry-run", str(pipeline.folder / "configs")]
    done = pipeline.cluster.run(*command, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert "limits" in done.stderr
