"""Checkpoints are converted and scored while a run trains, and the scores are gathered beside its metrics."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.cli import convert_checkpoint, evaluate_model, trend
from megatron_ipt.corpus.manifest import write_atomically

pytestmark = pytest.mark.e2e

COMMAND = [sys.executable, "-c", "from megatron_ipt.cli.entry import main; raise SystemExit(main())"]


def write_status(run: Path, status: str) -> None:
    file = run / "manifest.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    write_atomically(file, json.dumps({**values, "stage": "pretrain", "status": status}))  # it is being watched


def tensorboard_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_checkpoints_are_scored_as_they_come(model_folder: Path, quickstart_inputs: Path, tmp_path: Path) -> None:
    run, output, data = tmp_path / "run", tmp_path / "trend", tmp_path / "data"
    data.mkdir()
    shutil.copy(quickstart_inputs / "eval" / "piqa.validation.jsonl.gz", data)
    into_core = ["hf-to-mcore", "--input", str(model_folder), "--output", str(run), "parity_check=false"]
    assert convert_checkpoint.main(into_core) == 0
    shutil.rmtree(run / "source_files")  # of an import; a training run has none
    (checkpoint,) = (run / "checkpoints").glob("iter_*")
    hidden = checkpoint.rename(tmp_path / checkpoint.name)
    write_status(run, "running")
    before = {file.name for file in run.iterdir()}
    asked = [f"data_dir={data}", "tasks=[piqa]", "limit=6", "device=cpu"]
    words = [f"run={run}", f"output={output}", "poll_seconds=0.2", *(f"evaluation.{one}" for one in asked)]
    watch = subprocess.Popen([*COMMAND, "trend", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        time.sleep(1)
        hidden.rename(checkpoint)
        scored = output / checkpoint.name
        while not (output / "scores.jsonl").is_file():
            assert watch.poll() is None, watch.communicate()[1]
            time.sleep(0.2)
        assert watch.poll() is None  # the run has not finished
        write_status(run, "complete")
        out, said = watch.communicate(timeout=120)
    finally:
        watch.kill()
    assert watch.returncode == 0, said
    assert "piqa" in out
    assert evaluate_model.main([f"model={model_folder}", f"output={tmp_path / 'direct'}", *asked]) == 0
    direct = score(tmp_path / "direct")
    assert score(scored) == direct
    iteration = int(checkpoint.name.removeprefix("iter_"))
    (row,) = [json.loads(line) for line in (output / "scores.jsonl").read_text(encoding="utf-8").splitlines()]
    assert row == {"iteration": iteration, "eval/piqa": direct, "eval/average": direct}
    scalars = tensorboard_scalars(run / "tensorboard" / "evaluation")
    assert scalars["eval/piqa"] == [(iteration, pytest.approx(direct))]
    assert not (output / "models" / checkpoint.name).exists()
    assert {file.name for file in run.iterdir()} == before | {"tensorboard"}
    assert trend.main(words) == 0  # nothing is scored or noted twice
    assert len((output / "scores.jsonl").read_text(encoding="utf-8").splitlines()) == 1


def score(folder: Path) -> float:
    results: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    task = results["tasks"]["piqa"]
    return float(task["metrics"][task["metric"]]["value"])
