"""The page of a training run holds its curves, sources, checkpoints and lineage, and nothing it would have to load."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.checkpointing.contents import Contents, write_contents
from megatron_ipt.checkpointing.layout import iteration_folder, write_latest
from megatron_ipt.cli.report import main
from megatron_ipt.corpus.manifest import FileRecord, Manifest, write_manifest

CONFIG = "run: run\ndata:\n  tokenizer: tokenizer\nmodel:\n  preset: instructlm-500m\ntraining:\n  seed: 4711\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What a run of 100 iterations leaves, two sources and a checkpoint, without its weights."""
    folder = tmp_path / "run"
    folder.mkdir()
    rows: list[dict[str, Any]] = [{"iteration": 0, "validation_loss": 5.5, "validation_perplexity": 244.7}]
    for iteration in range(10, 101, 10):
        speed = {"tokens_per_second": 1000.0, "tflops_per_rank": 0.5, "step_seconds": 0.1, "peak_memory_gib": 2.0}
        sources = {"source_loss/<b>books": 3.0, "source_tokens/<b>books": 300}
        sources |= {"source_loss/web": 5.0, "source_tokens/web": 100}
        progress = {"lm_loss": 3.5, "consumed_train_tokens": 400 * iteration, "skipped_steps": 2, "grad_norm": 1.0}
        rows.append({"iteration": iteration, **progress, "learning_rate": 1e-3, **speed, **sources})
    rows.append({"iteration": 100, "checkpoint_iteration": 100, "checkpoint_seconds": 12.5})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "run_config.yaml").write_text(CONFIG, encoding="utf-8")
    about = {"ranks": 8, "device": "NVIDIA H100 80GB HBM3", "layout": "tensor 2 x pipeline 1 x data 4"}
    events: list[dict[str, Any]] = [
        {"started": 1_000.0, "ended": 1_060.0, **about},
        {"ended": 4_600.0, "productive_seconds": 3_000.0},
        {"started": 5_000.0, "ended": 5_060.0, **about},
        {"ended": 8_200.0, "productive_seconds": 5_400.0},
    ]
    (folder / "sessions.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    source = FileRecord("../raw.jsonl", 10, "ab" * 32)
    write_manifest(folder, Manifest("pretrain", "complete", {}, 4711, [source], [], {"iteration": 100}))
    checkpoint = iteration_folder(folder, 100)
    checkpoint.mkdir(parents=True)
    write_contents(checkpoint, Contents(100, 1600, [FileRecord("weights", 3 * 2**30, "cd" * 32)]))
    write_latest(folder, 100)
    return folder


def test_page_shows_the_run(run: Path) -> None:
    assert main([str(run)]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    shown = re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL))
    words = " ".join(shown.split())
    for expected in (
        "iterations 100",
        "tokens read 40,000",
        "skipped steps 2",
        "parameters 567,854,592",
        "ranks 8 x NVIDIA H100 80GB HBM3",
        "layout tensor 2 x pipeline 1 x data 4",
        "wall time 2:00:00",
        "GPU-hours 15.1",
        "restarts 1",
        "goodput 75.0%",
        "&lt;b&gt;books 3,000 75.0%",
        "web 1,000 25.0%",
        "checkpoints/iter_0000100 (latest) 100 1 3.000 12.5",
        "raw.jsonl abababababab",
        "seed: 4711",
    ):
        assert expected in words
    assert page.count("<svg") == 8  # losses, sources, six small ones: no GPU, so no share of its peak
    assert not re.search(r"""(?:src|href)=["'](?!#)""", page)
    assert "<b>books" not in page


@pytest.mark.parametrize(("status", "shown"), [("complete", "finished"), ("running", "not finished")])
def test_page_says_whether_the_run_is_finished(run: Path, status: str, shown: str) -> None:
    write_manifest(run, Manifest("pretrain", status, {}, 4711, [], [], {"iteration": 100}))
    assert main([str(run)]) == 0
    assert f"Training run, {shown}</p>" in (run / "report.html").read_text(encoding="utf-8").replace("\n", "")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "it is not a training run" in capsys.readouterr().err
