"""Stages refuse foreign files, skip completed work, and record a chain of manifests back to the raw text."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from megatron_ipt.corpus.manifest import (
    MANIFEST_NAME,
    Stage,
    dataset_manifest_name,
    find_producer,
    read_manifest,
    write_atomically,
)
from megatron_ipt.errors import UserError


def run_stage(name: str, folder: Path, source: Path, **config: object) -> Path:
    stage = Stage(name, folder, config, [source], seed=1)
    stage.start()
    result = folder / "out.txt"
    result.write_text(source.read_text() + name)
    stage.finish([result], {"files": 1})
    return result


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    file = tmp_path / "raw.txt"
    file.write_text("raw text")
    return file


def test_concurrent_writers_of_one_file_do_not_interfere(tmp_path: Path) -> None:
    file, together = tmp_path / "stamp.json", threading.Barrier(2, timeout=10)

    def write(text: str) -> None:
        for _ in range(100):
            together.wait()
            write_atomically(file, text)

    with ThreadPoolExecutor(2) as pool:
        for writer in [pool.submit(write, letter * 10_000) for letter in "ab"]:
            writer.result(timeout=60)
    assert set(file.read_text()) in ({"a"}, {"b"})
    assert list(tmp_path.iterdir()) == [file]


def test_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "folder", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_finished_stage_is_complete_and_others_are_not(raw: Path, tmp_path: Path) -> None:
    assert not Stage("a", tmp_path / "a", {}, [raw], seed=1).is_complete
    run_stage("a", tmp_path / "a", raw)
    assert Stage("a", tmp_path / "a", {}, [raw], seed=1).is_complete
    (tmp_path / "a" / "out.txt").unlink()
    assert not Stage("a", tmp_path / "a", {}, [raw], seed=1).is_complete


def test_same_input_and_seed_give_the_same_manifest_bytes(raw: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run_stage("a", tmp_path / name, raw, setting=3)
    assert (tmp_path / "one" / MANIFEST_NAME).read_bytes() == (tmp_path / "two" / MANIFEST_NAME).read_bytes()


def test_different_configuration_or_changed_input_is_refused(raw: Path, tmp_path: Path) -> None:
    run_stage("a", tmp_path / "a", raw, setting=3)
    with pytest.raises(UserError, match="setting: 3 then, 4 now"):
        Stage("a", tmp_path / "a", {"setting": 4}, [raw], seed=1)
    raw.write_text("another text")
    with pytest.raises(UserError, match="has changed since"):
        Stage("a", tmp_path / "a", {"setting": 3}, [raw], seed=1)


def test_folder_with_foreign_files_is_refused(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="no stage of this run wrote"):
        Stage("a", tmp_path / "a", {}, [raw])


def start_only(folder: Path, source: Path, *, has_results: Callable[[], bool] | None = None, **config: object) -> Stage:
    stage = Stage("a", folder, config, [source], seed=1, has_results=has_results)
    stage.start()
    return stage


def test_attempt_without_results_does_not_lock_the_folder(raw: Path, tmp_path: Path) -> None:
    assert not start_only(tmp_path / "a", raw, setting=3).replaces_attempt
    assert start_only(tmp_path / "a", raw, setting=4).replaces_attempt
    raw.write_text("another text")
    assert start_only(tmp_path / "a", raw, setting=4).replaces_attempt
    assert not start_only(tmp_path / "a", raw, setting=4).replaces_attempt
    (tmp_path / "a" / MANIFEST_NAME).rename(tmp_path / "a" / f".{MANIFEST_NAME}.0a1b.tmp")  # killed while writing
    assert not start_only(tmp_path / "a", raw, setting=5).replaces_attempt


def test_stage_decides_which_files_of_an_attempt_are_results(raw: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    start_only(folder, raw, setting=3)
    (folder / "log.txt").write_text("began")
    with pytest.raises(UserError, match="setting: 3 then, 4 now"):
        start_only(folder, raw, setting=4)
    start_only(folder, raw, has_results=lambda: (folder / "part").exists(), setting=4)
    (folder / "part").touch()
    with pytest.raises(UserError, match="setting: 4 then, 5 now"):
        start_only(folder, raw, has_results=lambda: (folder / "part").exists(), setting=5)
    with pytest.raises(UserError, match="stage: a then, b now"):
        Stage("b", folder, {}, [raw], has_results=lambda: False)


def test_abandoned_attempt_leaves_nothing(raw: Path, tmp_path: Path) -> None:
    start_only(tmp_path / "new", raw).abandon()
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    start_only(tmp_path / "mine", raw).abandon()
    assert not list((tmp_path / "mine").iterdir())


def make_dataset(folder: Path, name: str, source: Path, **config: object) -> Path:
    files = [folder / f"{name}.bin", folder / f"{name}.idx"]
    stage = Stage("a", folder, config, [source], manifest_name=dataset_manifest_name(name), files=files)
    stage.start()
    for file in files:
        file.write_text(source.read_text() + name)
    stage.finish(files, {"documents": 1})
    return files[0]


def test_datasets_share_a_folder_with_other_files_and_each_other(raw: Path, tmp_path: Path) -> None:
    first, second = (make_dataset(tmp_path, name, raw, setting=name) for name in ("one", "two.x"))
    with pytest.raises(UserError, match="setting: 'one' then, 3 now"):
        make_dataset(tmp_path, "one", raw, setting=3)
    for file in (first, second):
        assert find_producer(file.with_suffix(".idx"))[0] == file.with_suffix(f".{MANIFEST_NAME}")
    assert find_producer(raw) is None
    Stage("b", tmp_path / "b", {}, [first, second])
    second.write_text("edited by hand")
    with pytest.raises(UserError, match="changed after the a stage"):
        Stage("b", tmp_path / "b", {}, [first, second])
    first.unlink()
    first.with_suffix(".idx").unlink()
    make_dataset(tmp_path, "one", raw, setting=3)


def test_only_files_that_would_be_overwritten_block_a_dataset(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "one.idx").write_text("made by another program")
    with pytest.raises(UserError, match=r"one\.idx.*\n.*would be overwritten"):
        make_dataset(tmp_path, "one", raw)
    assert (tmp_path / "one.idx").read_text() == "made by another program"


def test_files_of_a_stage_folder_belong_to_its_manifest(raw: Path, tmp_path: Path) -> None:
    """A dataset covered by the manifest of its folder, next to a dataset with its own manifest."""
    folder = tmp_path / "data"
    whole = run_stage("a", folder, raw)
    made = make_dataset(folder, "one", raw)
    assert find_producer(whole)[0] == folder / MANIFEST_NAME
    assert find_producer(made)[0] == folder / f"one.{MANIFEST_NAME}"
    assert Stage("a", folder, {}, [raw], seed=1).is_complete


def test_relative_input_is_checked_against_its_manifest(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_stage("a", tmp_path / "a", raw)
    monkeypatch.chdir(tmp_path)
    Stage("b", Path("b"), {}, [Path("a/out.txt")])
    result.write_text("edited by hand")
    with pytest.raises(UserError, match="changed after the a stage"):
        Stage("b", Path("b"), {}, [Path("a/out.txt")])


def test_unfinished_and_stale_inputs_are_refused(raw: Path, tmp_path: Path) -> None:
    result = run_stage("a", tmp_path / "a", raw)
    Stage("b", tmp_path / "b", {}, [result])
    result.write_text("edited by hand")
    with pytest.raises(UserError, match="changed after the a stage"):
        Stage("b", tmp_path / "b", {}, [result])
    Stage("a", tmp_path / "a", {}, [raw], seed=1).start()
    with pytest.raises(UserError, match="has not finished"):
        Stage("b", tmp_path / "b", {}, [result])


def test_missing_input_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        Stage("a", tmp_path / "a", {}, [tmp_path / "nothing.jsonl"])


def test_manifest_of_another_program_is_ignored(raw: Path, tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).write_text(json.dumps({"name": "web app"}))
    assert read_manifest(tmp_path) is None
    run_stage("a", tmp_path / "a", raw)


def test_trusted_manifest_skips_hashing_but_checks_the_size(raw: Path, tmp_path: Path) -> None:
    result = run_stage("a", tmp_path / "a", raw)
    recorded = Stage("b", tmp_path / "b", {}, [result]).manifest.inputs
    assert Stage("b", tmp_path / "b", {}, [result], trusts_manifests=True).manifest.inputs == recorded
    result.write_text("longer than it was when the stage wrote it")
    with pytest.raises(UserError, match="changed after"):
        Stage("b", tmp_path / "b", {}, [result], trusts_manifests=True)
