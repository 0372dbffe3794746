"""Which folders count as checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_ipt.checkpointing.layout import CONTENTS_NAME, iteration_folder, resolve_checkpoint, write_latest
from megatron_ipt.corpus.manifest import Manifest, write_manifest


def seal(run: Path, iteration: int, made_by: str) -> Path:
    """A checkpoint with its seal; its own manifest is complete before that of `run` is."""
    folder = iteration_folder(run, iteration)
    folder.mkdir(parents=True)
    (folder / CONTENTS_NAME).write_text("{}")
    write_manifest(folder, Manifest(made_by, "complete", {}))
    write_latest(run, iteration)
    return folder


@pytest.mark.parametrize(
    ("stage", "status", "counts"),
    [
        ("convert", "complete", True),
        ("convert", "running", False),
        ("pretrain", "running", True),
        ("pretrain", "complete", True),
    ],
)
def test_what_a_conversion_wrote_counts_once_it_is_complete(
    stage: str, status: str, counts: bool, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    folder = seal(run, 0, stage)
    write_manifest(run, Manifest(stage, status, {}))
    link = tmp_path / "link"
    link.symlink_to(folder)
    for named in (run, folder, link):
        found = resolve_checkpoint(named)
        assert (found is not None and found.samefile(folder)) if counts else found is None


def test_newest_of_a_run_or_the_one_that_is_named(tmp_path: Path) -> None:
    folders = [seal(tmp_path, iteration, "pretrain") for iteration in (10, 20)]
    assert resolve_checkpoint(tmp_path) == folders[1]
    assert resolve_checkpoint(folders[0]) == folders[0]
    assert resolve_checkpoint(tmp_path / "checkpoints") is None
    write_latest(tmp_path, 10)
    assert resolve_checkpoint(tmp_path) == folders[0]
    for absent in (30, "nonsense"):
        (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text(f"{absent}\n")
        assert resolve_checkpoint(tmp_path) == folders[1]
