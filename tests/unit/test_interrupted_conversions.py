"""A conversion that is killed and run again keeps its finished files, and writes the same bytes as one that was not."""

from __future__ import annotations

import os
import shutil
import signal
import traceback
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
import torch
from conversion_sources import RUNS, Run, Sources, write_sources
from megatron_lm_files import SHAPE

from megatron_ipt.checkpointing import streamed
from megatron_ipt.conversion import hf_shards
from megatron_ipt.corpus.finished_files import FinishedFiles

FILE_BYTES = 30_000
FINISHED_BEFORE_THE_KILL = 3
FINISH = FinishedFiles.finish


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return write_sources(tmp_path_factory.mktemp("sources"), SHAPE)


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "FILE_BYTES", FILE_BYTES)
    monkeypatch.setattr(hf_shards, "MAX_SHARD_BYTES", FILE_BYTES)


def kill_after(count: int) -> None:
    """Let this process be killed when it has finished `count` files, while it writes others."""
    finished, lock = 0, Lock()

    def finish(self: FinishedFiles, *arguments: Any) -> Any:
        nonlocal finished
        with lock:
            if finished == count:
                os.kill(os.getpid(), signal.SIGKILL)
            result, finished = FINISH(self, *arguments), finished + 1
            return result

    FinishedFiles.finish = finish  # in a process that ends


def run_and_kill(run: Run, sources: Sources, output: Path) -> None:
    """Run the conversion in a process of its own, which is killed half-way."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)  # OpenMP's threads do not exist here
            kill_after(FINISHED_BEFORE_THE_KILL)
            run(sources, output)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def content_of(folder: Path) -> dict[str, bytes]:
    """Every file by its path, without what names the run or its writer."""
    files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    return {path: content for path, content in files.items() if path != "checkpoints/.writer"}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_killed_conversion_goes_on(run: Run, sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "output"
    run_and_kill(run, sources, output)
    kept = {tmp_path / "output" / path for path in FinishedFiles(output)._files}
    assert len(kept) == FINISHED_BEFORE_THE_KILL
    modified = {file.name: file.stat().st_mtime_ns for file in kept}
    damaged = min(kept)
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)

    written = set[str]()

    def finish(self: FinishedFiles, file: Path, *arguments: Any) -> Any:
        written.add(file.name)
        return FINISH(self, file, *arguments)

    monkeypatch.setattr(FinishedFiles, "finish", finish)
    run(sources, output)
    assert written.isdisjoint(modified.keys() - {damaged.name})
    assert damaged.name in written
    assert len(written) > 1
    resumed = content_of(output)
    for file in output.rglob("*"):
        if file.name in modified and file.name != damaged.name:
            assert file.stat().st_mtime_ns == modified[file.name]
    shutil.rmtree(output)
    run(sources, output)
    assert content_of(output) == resumed


def test_import_that_ends_just_before_its_manifest_is_not_written_again(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, output = RUNS["hf-to-mcore"], tmp_path / "output"
    monkeypatch.setattr(FinishedFiles, "clear", lambda self: None)
    run(sources, output)
    before = content_of(output)
    manifest = (output / "manifest.json").read_text(encoding="utf-8")
    (output / "manifest.json").write_text(manifest.replace('"complete"', '"running"'), encoding="utf-8")
    monkeypatch.setattr(FinishedFiles, "finish", None)  # nothing is written
    run(sources, output)
    assert content_of(output) == before
    assert not list((output / "checkpoints").glob("abandoned*"))
