"""The watchdog, the profiler and the start of a checkpoint store, on one rank."""

from __future__ import annotations

import errno
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from traceback import StackSummary
from typing import Any

import pytest
from torch.distributed.checkpoint import CheckpointException

from megatron_ipt.checkpointing.contents import Contents, read_contents
from megatron_ipt.checkpointing.layout import RUN_CONFIG_NAME, checkpoints_folder, iteration_folder, partial_folder
from megatron_ipt.checkpointing.shared_folder import wait_until_visible
from megatron_ipt.checkpointing.store import CheckpointStore
from megatron_ipt.config.loading import config_from
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.corpus.manifest import Manifest
from megatron_ipt.errors import UserError
from megatron_ipt.parallel.groups import Groups
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.profiler import Profiler
from megatron_ipt.training.state import TrainState
from megatron_ipt.training.watchdog import Watchdog

BUNDLE: Any = None


@pytest.fixture
def open_store(groups: Groups, tmp_path: Path) -> Callable[..., CheckpointStore]:
    """Opens the checkpoints of the run in the test's folder."""
    rule = config_from(PretrainConfig, {"run": "r", "data": {"tokenizer": "t"}}).checkpoint

    def open_one(log: Callable[[str], None] = print) -> CheckpointStore:
        return CheckpointStore(tmp_path, groups, Manifest("pretrain", "running", {}), rule=rule, log=log)

    return open_one


def test_watchdog_leaves_nothing_behind(make_context: Callable[..., RunContext], tmp_path: Path) -> None:
    context = make_context({"run": str(tmp_path / "run")})
    watchdog = Watchdog(context)
    watchdog.setup(context, BUNDLE)
    [thread] = [thread for thread in threading.enumerate() if thread.name == "watchdog"]
    assert thread.daemon, "it would keep a process that has failed"
    assert [file.name for file in (tmp_path / "run" / "stacks").iterdir()] == ["rank_00000.txt"]
    watchdog.start(TrainState(iteration=3))
    watchdog.close()
    assert not thread.is_alive()
    assert not list((tmp_path / "run" / "stacks").iterdir())


@pytest.mark.parametrize(("ranks", "files"), [([0], ["rank_00000_iterations_3-4.json.gz"]), ([1], [])])
def test_chosen_ranks_write_a_trace(
    ranks: list[int], files: list[str], make_context: Callable[..., RunContext], tmp_path: Path
) -> None:
    profile = {"tool": "torch", "first_iteration": 3, "last_iteration": 4, "ranks": ranks}
    profiler = Profiler(make_context({"run": str(tmp_path / "run"), "profile": profile}))
    profiler.start(TrainState(iteration=1))
    written = []
    for iteration in range(2, 6):
        profiler.after_step(TrainState(iteration=iteration))
        written.append([file.name for file in (tmp_path / "run" / "profile").glob("*.gz")])
    profiler.close()
    assert written == [[], [], files, files]


def test_store_removes_what_was_not_finished(open_store: Callable[..., CheckpointStore], tmp_path: Path) -> None:
    """A folder of an interrupted save, and a link that cannot be removed as a folder."""
    checkpoints_folder(tmp_path).mkdir()
    folder, link = (partial_folder(tmp_path, 20, writer) for writer in ("a", "b"))
    folder.mkdir()
    (folder / "file").write_text("")
    link.symlink_to(tmp_path / "gone")
    log = list[str]()
    open_store(log.append)
    assert not folder.exists()
    assert log == [f"removing {path}, which was not finished" for path in (folder, link)]


def test_run_with_unfinished_checkpoints_only_does_not_begin_anew(
    open_store: Callable[..., CheckpointStore], tmp_path: Path
) -> None:
    log = list[str]()
    store = open_store(log.append)
    assert store.newest_intact() is None
    iteration_folder(tmp_path, 10).mkdir()
    with pytest.raises(UserError, match="it has checkpoints, but none of them is intact"):
        store.newest_intact()
    assert log == [f"ignoring {iteration_folder(tmp_path, 10)}, which has no checkpoint.json"]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "[Errno 28] No space left on device"),
        (CheckpointException("several", {1: (ValueError("a broken shard"), StackSummary())}), "a broken shard"),
        (CheckpointException("elsewhere", {}), "see the output of the other ranks"),
    ],
)
def test_save_that_fails_leaves_the_former_checkpoint(
    error: Exception, cause: str, open_store: Callable[..., CheckpointStore], tmp_path: Path
) -> None:
    store = open_store()
    (tmp_path / "run.yaml").write_text("run: r\n")
    former = store.save(Contents(10, 80, []), tmp_path / "run.yaml", lambda folder: None)

    def write(folder: Path) -> None:
        (folder / "part").write_text("")
        raise error

    with pytest.raises(UserError, match="it could not be written") as caught:
        store.save(Contents(20, 160, []), tmp_path / "run.yaml", write)
    (problem,) = caught.value.problems
    assert re.fullmatch(rf"it could not be written: {re.escape(cause)} \([\d,]+ bytes were free\)", problem.reason)
    assert [path for path in checkpoints_folder(tmp_path).iterdir() if path.is_dir()] == [former]
    later = store.save(Contents(20, 160, []), tmp_path / "run.yaml", lambda folder: None)
    assert store.newest_intact() == (later, read_contents(later))
    assert [record.path for record in read_contents(later).files] == [RUN_CONFIG_NAME]


def test_save_that_fails_because_another_job_has_the_run_says_so(
    open_store: Callable[..., CheckpointStore], tmp_path: Path
) -> None:
    """That job has removed the unfinished checkpoint."""
    store = open_store()
    (tmp_path / "run.yaml").write_text("run: r\n")

    def write(folder: Path) -> None:
        open_store()
        (folder / "part").write_text("")

    with pytest.raises(UserError, match="another job has been started on it since"):
        store.save(Contents(20, 160, []), tmp_path / "run.yaml", write)


def test_waiting_for_a_file_leaves_the_processor_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megatron_ipt.checkpointing.shared_folder._VISIBLE_SECONDS", 0.5)
    (tmp_path / "mark").write_text("another")
    began, used = time.monotonic(), time.thread_time()
    assert not wait_until_visible(tmp_path / "mark", "mine")
    assert time.monotonic() - began > 0.5
    assert time.thread_time() - used < 0.25
    assert wait_until_visible(tmp_path / "mark", "another")
