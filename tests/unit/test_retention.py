"""Which checkpoints are removed, and that nothing else is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from megatron_ipt.checkpointing.contents import Contents, record_files, write_contents
from megatron_ipt.checkpointing.layout import abandon, iteration_folder, iteration_folders, partial_folder
from megatron_ipt.checkpointing.retention import remove_superseded, superseded
from megatron_ipt.config.pretrain import CheckpointConfig

LOSSES: dict[int, float | None] = {100: 4.0, 200: 3.0, 300: None, 400: 3.5, 500: 3.2}


@pytest.mark.parametrize(
    ("rule", "dropped"),
    [
        (CheckpointConfig(keep_last=0, keep_every=200, keep_best=1), []),
        (CheckpointConfig(keep_last=2), [300, 200, 100]),
        (CheckpointConfig(keep_last=1, keep_every=200), [500 - 200, 100]),
        (CheckpointConfig(keep_last=1, keep_best=2), [400, 300, 100]),
        (CheckpointConfig(keep_last=9), []),
    ],
)
def test_superseded(rule: CheckpointConfig, dropped: list[int]) -> None:
    assert superseded(LOSSES, rule) == dropped


def make_checkpoint(run: Path, iteration: int) -> Path:
    folder = iteration_folder(run, iteration)
    folder.mkdir(parents=True)
    (folder / "weights.distcp").write_bytes(bytes(100))
    write_contents(folder, Contents(iteration, 16 * iteration, record_files(folder, [folder / "weights.distcp"])))
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[[Sequence[int]], Path]:
    def make(iterations: Sequence[int]) -> Path:
        for iteration in iterations:
            make_checkpoint(tmp_path, iteration)
        return tmp_path

    return make


def remove(run: Path, sealed: int, keep_last: int) -> tuple[list[int], list[str]]:
    """The iterations that are left, and what was reported."""
    reported: list[str] = []
    remove_superseded(run, sealed, CheckpointConfig(keep_last=keep_last), reported.append)
    return list(iteration_folders(run)), reported


def test_checkpoints_beyond_the_one_just_sealed_take_no_place(make_run: Callable[[Sequence[int]], Path]) -> None:
    assert remove(make_run([10, 20, 24, 28, 30]), 28, keep_last=1) == ([30, 28], [])


def test_damaged_checkpoints_take_no_place(make_run: Callable[[Sequence[int]], Path]) -> None:
    run = make_run([10, 20, 24, 25, 28])
    (iteration_folder(run, 25) / "weights.distcp").write_bytes(bytes(99))
    (iteration_folder(run, 24) / "checkpoint.json").write_text("{")
    assert remove(run, 28, keep_last=2) == ([28, 25, 24, 20], [])


def test_checkpoints_behind_a_link_stay(make_run: Callable[[Sequence[int]], Path]) -> None:
    run = make_run([10, 20])
    cold = iteration_folder(run, 10).rename(run / "cold")
    iteration_folder(run, 10).symlink_to(cold)
    iteration_folder(run, 5).symlink_to(run / "gone")
    assert remove(run, 20, keep_last=1) == ([20, 10, 5], [])
    assert (cold / "weights.distcp").is_file()


def test_a_checkpoint_that_cannot_be_removed_is_reported(make_run: Callable[[Sequence[int]], Path]) -> None:
    run = make_run([10, 20])
    in_the_way = partial_folder(run, 10, "removed")
    (in_the_way / "file").mkdir(parents=True)
    left, reported = remove(run, 20, keep_last=1)
    assert left == [20, 10]
    assert len(reported) == 1
    assert str(iteration_folder(run, 10)) in reported[0]


def test_abandoned_checkpoints_keep_their_files_under_names_of_their_own(tmp_path: Path) -> None:
    names = [abandon(make_checkpoint(tmp_path, 30)).name for _ in range(3)]
    assert names == ["abandoned_iter_0000030", "abandoned_iter_0000030.2", "abandoned_iter_0000030.3"]
    assert not iteration_folders(tmp_path)
