"""Local checkpoints on a disk, and the choice of the one that a run resumes from."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from megatron_ipt.checkpointing.callback_states import read_callback_states
from megatron_ipt.checkpointing.contents import Contents, write_contents
from megatron_ipt.checkpointing.layout import iteration_folder as shared_folder
from megatron_ipt.checkpointing.layout import reachable_iterations, write_latest
from megatron_ipt.checkpointing.local_agreement import (
    Shared,
    choose,
    end_history,
    history_file,
    read_shared,
    record_progress,
)
from megatron_ipt.checkpointing.local_files import (
    Inspected,
    RankContents,
    inspect,
    iteration_folder,
    keep_only,
    read_contents,
    saved_iterations,
    write_checkpoint,
)
from megatron_ipt.errors import UserError
from megatron_ipt.stages import STAGES

TENSORS = {
    "/model/odd": torch.ones(3, dtype=torch.bfloat16),
    "/model/weight": torch.arange(6, dtype=torch.bfloat16).view(2, 3).t(),
    "/optimizer/exp_avg": torch.randn(3, 1, 5),
    "/optimizer/scale": torch.tensor(2.5, dtype=torch.float16),
}


def contents(iteration: int, **changes: Any) -> RankContents:
    given = RankContents(
        iteration=iteration,
        consumed_train_samples=8 * iteration,
        validation_loss=1.25,
        steps=[float(iteration)],
        shared_iteration=20,
        layout="rank 0 of data 2",
        description="d",
        attempt="a",
        files=[],
    )
    return replace(given, **changes)


def write(folder: Path, iteration: int, kept: Collection[int] = (), **states: Any) -> Path:
    return write_checkpoint(folder, contents(iteration), TENSORS, states, kept)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_safetensors_reads_what_was_written(tmp_path: Path) -> None:
    folder = write(tmp_path / "rank", 25, anomalies={"count": 3, "tensor": torch.ones(2)})
    assert folder == tmp_path / "rank" / "iteration_0000025" == iteration_folder(tmp_path / "rank", 25)
    assert names(folder) == ["callbacks.json", "callbacks.safetensors", "rank.json", "state.safetensors"]
    stored = load_file(folder / "state.safetensors")
    assert stored.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert stored[name].dtype == tensor.dtype
        assert torch.equal(stored[name], tensor)
    start = int.from_bytes((folder / "state.safetensors").read_bytes()[:8], "little")
    assert start % 8 == 0
    header = json.loads((folder / "state.safetensors").read_bytes()[8 : 8 + start])
    assert all(header[name]["data_offsets"][0] % tensor.itemsize == 0 for name, tensor in TENSORS.items()), "aligned"
    states = read_callback_states(folder)["anomalies"]
    assert states["count"] == 3
    assert torch.equal(states["tensor"], torch.ones(2))
    read = read_contents(folder)
    assert replace(read, files=[]) == contents(25)
    assert [record.path for record in read.files] == ["state.safetensors", "callbacks.json", "callbacks.safetensors"]
    assert names(write(tmp_path / "other", 25)) == ["rank.json", "state.safetensors"]


def test_checkpoints_that_are_not_kept_are_removed_before_a_write(tmp_path: Path) -> None:
    for iteration, kept in ((5, ()), (10, (5,)), (100, (5, 10)), (15, (10,)), (15, (10,))):
        assert write(tmp_path, iteration, kept).is_dir()
    assert names(tmp_path) == ["iteration_0000010", "iteration_0000015"]
    assert saved_iterations(tmp_path) == [15, 10]
    (tmp_path / ".iteration_0000020.abc.partial").mkdir()
    keep_only(tmp_path, [10])
    assert names(tmp_path) == ["iteration_0000010"]
    keep_only(tmp_path / "missing", [])
    assert saved_iterations(tmp_path / "missing") == []


def test_failed_write_leaves_only_the_kept_checkpoints(tmp_path: Path) -> None:
    write(tmp_path, 5)
    with pytest.raises(UserError, match="cannot be saved"):
        write(tmp_path, 10, [5], mine={"value": object()})
    with pytest.raises(KeyError):
        write_checkpoint(tmp_path, contents(10), {"wide": torch.ones(2, dtype=torch.float64)}, {}, [5])
    assert names(tmp_path) == ["iteration_0000005"]
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(NotADirectoryError):
        write(file, 5)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_reason_says_why_a_checkpoint_cannot_be_used(tmp_path: Path) -> None:
    folder = write(tmp_path, 25)

    def problem(layout: str = "rank 0 of data 2", description: str = "d", shared: int = 20) -> str | None:
        found = inspect(folder, layout, description, shared)
        assert found.attempt == "a"
        return found.problem

    assert problem() is None
    assert problem(shared=21) is None
    assert problem(shared=19) == "it was saved after the shared checkpoint of iteration 20, which the run no longer has"
    assert problem(layout="rank 0 of data 4") == "it was saved by rank 0 of data 2, and this is rank 0 of data 4"
    assert problem(description="e") == "it was saved with different model or optimizer settings"
    flip(folder / "state.safetensors")
    assert problem() == "state.safetensors has changed since it was saved"
    (folder / "state.safetensors").write_bytes(b"x")
    assert str(problem()).startswith("state.safetensors has 1 bytes instead of ")
    (folder / "state.safetensors").unlink()
    assert problem() == "state.safetensors is missing"


@pytest.mark.parametrize("key", ["consumed_train_samples", "iteration"])
def test_changed_progress_is_noticed(key: str, tmp_path: Path) -> None:
    file = write(tmp_path, 25) / "rank.json"
    stored = json.loads(file.read_text())
    stored["contents"][key] += 1
    file.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"^rank\.json: it has changed since it was saved$"):
        read_contents(file.parent)
    problem = "rank.json: it has changed since it was saved"
    assert inspect(file.parent, "rank 0 of data 2", "d", 20) == Inspected("", problem)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"contents": {}, "sha256": 1}'])
def test_invalid_rank_json_is_a_problem(text: str, tmp_path: Path) -> None:
    file = write(tmp_path, 25) / "rank.json"
    file.write_text(text)
    assert str(inspect(file.parent, "rank 0 of data 2", "d", 20).problem).startswith("rank.json: ")


OK, OTHER = Inspected("a", None), Inspected("b", None)


def bad(problem: str) -> Inspected:
    return Inspected("a", problem)


@pytest.mark.parametrize(
    ("found", "chosen"),
    [
        ([{30: OK, 25: OK}, {30: OK, 25: OK}], (30, "")),
        ([{30: OK, 25: OK}, {25: OK}], (25, "")),
        ([{30: bad("damaged"), 25: OK}, {30: OK, 25: OK}], (25, "")),
        ([{30: OK}, {25: OK}], (None, "iteration 30 of rank 1 on n1: it is missing")),
        ([{30: bad("damaged"), 25: bad("old")}, {30: bad("too")}], (None, "iteration 30 of rank 0 on n0: damaged")),
        ([{}, {25: OK}], (None, "iteration 25 of rank 0 on n0: it is missing")),
        ([{}, {}], (None, "no rank has one after iteration 20")),
        ([{30: OK, 25: OTHER}, {30: OTHER, 25: OTHER}], (25, "")),
        ([{30: OK}, {30: OTHER}], (None, "iteration 30: ranks saved it in different attempts")),
    ],
)
def test_newest_checkpoint_that_all_ranks_can_use_is_chosen(
    found: list[dict[int, Inspected]], chosen: tuple[int | None, str]
) -> None:
    assert choose([(f"n{rank}", of_rank) for rank, of_rank in enumerate(found)], 20) == chosen


def test_newer_local_checkpoints_are_progress_of_a_slurm_job(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    history_file(tmp_path).write_text("name\n")
    for iteration in (5, 10):
        record_progress(tmp_path, iteration)
        assert finished(tmp_path) == {f"checkpoints/.local_iteration_{iteration:07d}"}
    assert names(folder) == [".local_history", ".local_iteration_0000010"]
    record_progress(tmp_path, 8)
    assert finished(tmp_path) == {"checkpoints/.local_iteration_0000010"}, "a repeated step is no progress"
    end_history(tmp_path, "other")
    assert names(folder) == [".local_history", ".local_iteration_0000010"]
    end_history(tmp_path, "name")
    end_history(tmp_path)
    assert names(folder) == []


def finished(run: Path) -> set[str]:
    """The finished parts of a training run."""
    return {str(file.relative_to(run)) for pattern in STAGES["pretrain"].parts for file in run.glob(pattern)}


def test_reset_to_an_earlier_shared_checkpoint_is_noticed(tmp_path: Path) -> None:
    history_file(tmp_path).parent.mkdir()
    assert read_shared(tmp_path) == Shared(None, 0, was_reset=False)
    for iteration in (10, 20):
        shared_folder(tmp_path, iteration).mkdir()
        write_contents(shared_folder(tmp_path, iteration), Contents(iteration, iteration, []))
    history_file(tmp_path).write_bytes(b"\xff")
    assert read_shared(tmp_path) == Shared("\ufffd", 20, was_reset=False)
    history_file(tmp_path).write_text("name\n")
    assert read_shared(tmp_path) == Shared("name", 20, was_reset=False)
    write_latest(tmp_path, 20)
    assert read_shared(tmp_path) == Shared("name", 20, was_reset=False)
    write_latest(tmp_path, 10)
    assert read_shared(tmp_path) == Shared("name", 10, was_reset=True)
    assert reachable_iterations(tmp_path) == [10]
    write_latest(tmp_path, 5)
    assert reachable_iterations(tmp_path) == [20, 10], "none is as early as the recorded one"
