"""The contents of a published checkpoint, and the new name of one that it replaces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ipt.checkpointing.contents import Contents, read_contents
from megatron_ipt.checkpointing.layout import CONTENTS_NAME, checkpoints_folder, partial_folder, read_latest
from megatron_ipt.checkpointing.publishing import publish
from megatron_ipt.checkpointing.run_lock import RunLock, mark_file
from megatron_ipt.corpus.manifest import Manifest, read_manifest, record_file
from megatron_ipt.errors import UserError


def write_partial(run: Path, lock: RunLock, text: str) -> tuple[Path, Contents]:
    partial = partial_folder(run, 20, lock.mark)
    partial.mkdir()
    (partial / "weights").write_text(text, encoding="utf-8")
    return partial, Contents(20, 160, [record_file(partial / "weights", partial)], validation_loss=2.5)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def lineage(run: Path, tmp_path: Path) -> Manifest:
    """The manifest of a run that is in progress."""
    run.mkdir()
    (tmp_path / "text.bin").write_text("text", encoding="utf-8")
    inputs = [record_file(tmp_path / "text.bin", run)]
    assert inputs[0].path == "../text.bin"
    return Manifest("pretrain", "running", {"training.seed": 3}, 3, inputs, [], {"iteration": 15}, {"torch": "2"})


def test_published_checkpoint_is_a_complete_stage(run: Path, lineage: Manifest, tmp_path: Path) -> None:
    lock = RunLock(run)
    partial, contents = write_partial(run, lock, "new")
    folder = publish(run, partial, contents, lineage, lock)
    assert [path.name for path in checkpoints_folder(run).iterdir() if path.is_dir()] == [folder.name]
    assert read_latest(run) == 20
    assert read_contents(folder) == contents
    manifest = read_manifest(folder)
    assert manifest is not None
    assert (folder / manifest.inputs[0].path).resolve() == tmp_path / "text.bin"
    assert manifest == replace(
        lineage,
        status="complete",
        inputs=[replace(lineage.inputs[0], path="../../../text.bin")],
        outputs=[record_file(folder / CONTENTS_NAME, folder)],
        counts={"iteration": 20, "consumed_train_samples": 160},
    )


def test_replaced_checkpoint_is_kept_under_another_name(run: Path, lineage: Manifest) -> None:
    lock = RunLock(run)
    for text in ("first", "second", "third"):
        folder = publish(run, *write_partial(run, lock, text), lineage, lock)
    found = {path.name: (path / "weights").read_text() for path in folder.parent.iterdir() if path.is_dir()}
    name = folder.name
    assert found == {name: "third", f"abandoned_{name}": "first", f"abandoned_{name}.2": "second"}


def test_lock_of_a_new_run(run: Path) -> None:
    lock = RunLock(run)
    assert mark_file(run).read_text(encoding="utf-8") == f"{lock.mark}\n"
    lock.check()


def test_job_that_has_lost_the_run_publishes_nothing(run: Path, lineage: Manifest) -> None:
    lock = RunLock(run)
    partial, contents = write_partial(run, lock, "late")
    later = RunLock(run)
    assert mark_file(run).read_text(encoding="utf-8") == f"{later.mark}\n"
    with pytest.raises(UserError, match="another job has been started on it since") as caught:
        publish(run, partial, contents, lineage, lock)
    assert (caught.value.problems[0].field, caught.value.problems[0].value) == ("run", run)
    assert partial.is_dir()
    assert read_latest(run) is None
    later.check()
