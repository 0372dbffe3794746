"""What commands print is whole in a pipe, whatever the terminal's width; on a terminal it is wrapped, never cut."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.cli import plan, trace
from megatron_ipt.cli.build_mixture import print_mixtures
from megatron_ipt.config.loading import config_from
from megatron_ipt.config.mixture import MixtureConfig
from megatron_ipt.corpus.manifest import Stage, record_file
from megatron_ipt.evaluation import table as evaluation_table
from megatron_ipt.synthesizer.scoring import table as scoring_table

LONG_NAME = "a-name-as-long-as-people-give-them-" * 4 + "[v2]:100:"
SHARE = {"value": 0.25, "stderr": 0.01}
FIGURES = {
    **dict.fromkeys(("f1", "exact", "with_one_pair", "with_two_pairs"), SHARE),
    "contexts": 10,
    "questions": 20,
    "pairs_per_text": 1.5,
}
SCORE = {
    "metric": "acc",
    "metrics": {"acc": {"value": 0.5, "stderr": 0.1, "is_share": True}},
    "questions": 5,
    "questions_available": 9,
    "num_fewshot": 0,
    "chance": 0.25,
}


@pytest.fixture(autouse=True)
def narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")


@pytest.fixture
def traced(tmp_path: Path) -> tuple[Path, Path]:
    """Two stages in folders with long names, and the raw text before them."""
    raw = tmp_path / f"{LONG_NAME}.jsonl"
    raw.write_text('{"text": "rain"}\n', encoding="utf-8")
    made = raw
    for name in ("synthesize", "preprocess"):
        stage = Stage(name, tmp_path / f"{name}-{LONG_NAME}", {}, [made])
        stage.start()
        made = stage.folder / "made"
        made.write_text(name, encoding="utf-8")
        stage.finish([made], {"documents": 1, "by_kind": {"raw": 1}})
    return made.parent, raw


def test_trace_keeps_paths_and_hashes_whole(traced: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder, raw = traced
    assert trace.main([str(folder)]) == 0
    first, second, source = capsys.readouterr().out.splitlines()
    assert first == f"preprocess {folder}  (documents 1)"
    assert str(raw.parent / f"synthesize-{LONG_NAME}") in second
    assert source.endswith(f"{raw.name}  sha256 {record_file(raw, folder).sha256[:12]}  unchanged")


def test_trace_as_json(traced: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder, raw = traced
    raw.write_text("other\n", encoding="utf-8")
    assert trace.main([str(folder), "--json"]) == 0
    last, first = json.loads(capsys.readouterr().out)
    assert (last["stage"], last["status"], last["made_from"]) == ("preprocess", "complete", [first["folder"]])
    assert (last["sources"], first["made_from"]) == ([], [])
    assert first["counts"] == {"documents": 1, "by_kind": {"raw": 1}}
    (source,) = first["sources"]
    assert (Path(first["folder"]) / source["path"]).resolve() == raw
    assert (len(source["sha256"]), source["size_bytes"], source["state"]) == (64, 17, "changed since")


def print_mixture() -> None:
    settings = {
        "datasets": {LONG_NAME: "p"},
        "variants": {"instruct": {LONG_NAME: {"weight": 1}}},
        "output": "o",
        "global_batch_size": 8,
    }
    draw = {"tokens": 1000, "available_tokens": 500, "epochs": 2.0, "samples": 10}
    counts: dict[str, Any] = {"tokens": 1000, "train_iters": 3, "variants": {"instruct": {LONG_NAME: draw}}}
    print_mixtures(config_from(MixtureConfig, settings), counts)


def print_evaluation() -> None:
    left_out = [{"name": LONG_NAME, "reason": LONG_NAME}]
    tasks = {LONG_NAME: SCORE}
    results = {"model": LONG_NAME, "suite": "general", "tasks": tasks, "left_out": left_out, "average": 0.5}
    evaluation_table.print_scores(results)


def print_scoring() -> None:
    scoring_table.print_scores({"models": {LONG_NAME: {"overall": FIGURES, "sets": {LONG_NAME: FIGURES}}}})


def print_plan() -> None:
    plan.main(["model.preset=llama3-8b", "gpus=8", "gpu=h200"])


@pytest.mark.parametrize(
    ("show", "expected"),
    [
        (print_mixture, [f" {LONG_NAME} ", "1,000", "100.00%", "2.000"]),
        (print_evaluation, [f"{LONG_NAME}: suite general", f" {LONG_NAME} ", "5 of 9", "50.0 %", "25.0 %"]),
        (print_scoring, [f" {LONG_NAME} ", "25.0", "1.50"]),
        (
            print_plan,
            ["GFLOP per token at 2048 tokens", "micro", "tokens/s", "parallel.use_distributed_optimizer=true"],
        ),
    ],
)
def test_tables_in_a_pipe_are_whole(show: Any, expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    show()
    printed = capsys.readouterr().out
    assert [text for text in expected if text not in printed] == []
    assert "…" not in printed
    assert all(LONG_NAME in line for line in printed.splitlines() if "a-name" in line)


def test_terminal_wraps_and_cuts_nothing(traced: tuple[Path, Path]) -> None:
    folder, raw = traced
    program = f"from megatron_ipt.cli.trace import main; raise SystemExit(main([{str(folder)!r}]))"
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "dumb"}
    done = subprocess.run([sys.executable, "-c", program], stdout=slave, env=environment, check=False)
    os.close(slave)
    lines = os.read(master, 1 << 16).decode().splitlines()
    os.close(master)
    assert done.returncode == 0
    assert max(map(len, lines)) <= 80
    shown = "".join(line.strip("│├└─ ") for line in lines)
    assert raw.name in shown and record_file(raw, folder).sha256[:12] in shown
