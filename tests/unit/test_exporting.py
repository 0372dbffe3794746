"""Exports beside the training: one at a time, without waiting for them, and without stopping a run that they fail."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_ipt.checkpointing.layout import CONTENTS_NAME, iteration_folder
from megatron_ipt.corpus.manifest import Manifest, write_manifest
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.exports import EXPORTS_NAME, Exports
from megatron_ipt.training.state import TrainState

SLEEP_SECONDS = 30
SLEEP = f"import time; time.sleep({SLEEP_SECONDS})"


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def exports(make_context: Callable[..., RunContext], tmp_path: Path, log: list[str]) -> Exports:
    """Exports of a run with checkpoints at 2 and 4, which are empty and therefore cannot be converted."""
    settings = {
        "run": str(tmp_path),
        "training": {"train_iters": 4},
        "checkpoint": {"save_interval": 2, "keep_every": 2, "export_hf": True},
    }
    context = make_context(settings, log=log.append)
    for iteration in (2, 4):
        folder = iteration_folder(tmp_path, iteration)
        folder.mkdir(parents=True)
        (folder / CONTENTS_NAME).write_text(json.dumps({}), encoding="utf-8")
    return Exports(context)


def test_failed_exports_are_logged_with_their_reason(exports: Exports, log: list[str], tmp_path: Path) -> None:
    exports.between_steps(TrainState(iteration=2))
    exports.finish(TrainState(iteration=4))
    exports.close()
    assert [line.partition(" could not be exported (exit code 2): ")[0] for line in log] == [
        f"warning: {iteration_folder(tmp_path, iteration)}" for iteration in (2, 4)
    ]
    assert all("checkpoint" in line.partition("(exit code 2): ")[2] for line in log)


def test_the_end_of_an_export_is_reported_between_steps(exports: Exports, log: list[str]) -> None:
    deadline = time.monotonic() + 60
    while not log and time.monotonic() < deadline:
        exports.between_steps(TrainState(iteration=2))
        time.sleep(0.1)
    assert "iter_0000002 could not be exported" in log[0]
    exports.close()


def test_training_does_not_wait_for_an_export(
    exports: Exports, log: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megatron_ipt.training.exports.COMMAND_LINE", [sys.executable, "-c", SLEEP])
    began = time.monotonic()
    for iteration in range(2, 5):
        exports.between_steps(TrainState(iteration=iteration))
    exports.close()  # the run has been stopped, not finished
    assert time.monotonic() - began < SLEEP_SECONDS
    assert not log
    assert [file.name for file in (tmp_path / EXPORTS_NAME).iterdir()] == ["iter_0000002.log"]


def test_finished_exports_are_kept_and_others_repeated(exports: Exports, log: list[str], tmp_path: Path) -> None:
    for iteration, status in ((2, "complete"), (4, "running")):
        folder = tmp_path / EXPORTS_NAME / iteration_folder(tmp_path, iteration).name
        folder.mkdir(parents=True)
        write_manifest(folder, Manifest("convert", status, {}))
    exports.finish(TrainState(iteration=4))
    exports.close()
    assert len(log) == 1 and "iter_0000004 could not be exported" in log[0]


def test_an_export_is_no_rank_of_the_run(
    exports: Exports,
    log: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    check = "import os; print('a line'); os._exit('RANK' in os.environ or os.environ['CUDA_VISIBLE_DEVICES'] != '')"
    monkeypatch.setattr("megatron_ipt.training.exports.COMMAND_LINE", [sys.executable, "-uc", check])
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    exports.finish(TrainState(iteration=4))
    exports.close()
    assert log == [f"exported {name} to {tmp_path / EXPORTS_NAME / name}" for name in ("iter_0000002", "iter_0000004")]
    assert capfd.readouterr() == ("", "")
    assert not list((tmp_path / EXPORTS_NAME).iterdir())
