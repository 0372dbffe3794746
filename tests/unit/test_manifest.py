"""Stages refuse what is not theirs, skip what is done, and leave a chain back to the raw text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_ipt.corpus.manifest import MANIFEST_NAME, Stage, read_manifest
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


def test_other_configuration_or_changed_input_is_refused(raw: Path, tmp_path: Path) -> None:
    run_stage("a", tmp_path / "a", raw, setting=3)
    with pytest.raises(UserError, match="setting: 3 there, 4 now"):
        Stage("a", tmp_path / "a", {"setting": 4}, [raw], seed=1)
    raw.write_text("another text")
    with pytest.raises(UserError, match="not what it was"):
        Stage("a", tmp_path / "a", {"setting": 3}, [raw], seed=1)


def test_folder_with_foreign_files_is_refused(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="no stage of this run made"):
        Stage("a", tmp_path / "a", {}, [raw])


def test_unfinished_and_stale_inputs_are_refused(raw: Path, tmp_path: Path) -> None:
    result = run_stage("a", tmp_path / "a", raw)
    Stage("b", tmp_path / "b", {}, [result])
    result.write_text("edited by hand")
    with pytest.raises(UserError, match="changed after the a stage"):
        Stage("b", tmp_path / "b", {}, [result])
    Stage("a", tmp_path / "a", {}, [raw], seed=1).start()
    with pytest.raises(UserError, match="has not finished"):
        Stage("b", tmp_path / "b", {}, [result])


def test_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        Stage("a", tmp_path / "a", {}, [tmp_path / "nothing.jsonl"])


def test_manifest_of_another_program_is_not_ours(raw: Path, tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).write_text(json.dumps({"name": "web app"}))
    assert read_manifest(tmp_path) is None
    run_stage("a", tmp_path / "a", raw)


def test_trusted_manifest_spares_hashing_but_not_the_size(raw: Path, tmp_path: Path) -> None:
    result = run_stage("a", tmp_path / "a", raw)
    recorded = Stage("b", tmp_path / "b", {}, [result]).manifest.inputs
    assert Stage("b", tmp_path / "b", {}, [result], trusts_manifests=True).manifest.inputs == recorded
    result.write_text("longer than it was when the stage wrote it")
    with pytest.raises(UserError, match="changed after"):
        Stage("b", tmp_path / "b", {}, [result], trusts_manifests=True)
