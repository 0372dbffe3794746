"""Errors of the operating system: each real one has a path, a reason and a remedy, and an exit code that fits."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from megatron_ipt.corpus.manifest import write_atomically
from megatron_ipt.corpus.rows import read_rows
from megatron_ipt.errors import TemporaryFailure, UserError
from megatron_ipt.system_errors import errno_of, explain, naming

FULL = Path("/dev/full")


def write_to_full_disk(_: Path) -> None:
    with FULL.open("w") as handle:
        handle.write("text")


def write_below_a_file(folder: Path) -> None:
    (folder / "file").touch()
    write_atomically(folder / "file" / "manifest.json", "{}")


def write_over_a_folder(folder: Path) -> None:
    (folder / "taken").mkdir()
    write_atomically(folder / "taken", "{}")


def open_too_many(folder: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    former = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        write_atomically(folder / "manifest.json", "{}")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, former)


def write_array_to_full_disk(_: Path) -> None:
    with FULL.open("wb") as handle:
        np.save(handle, np.arange(100_000))


def write_in_rust(_: Path) -> None:
    save_file({"weight": torch.zeros(1)}, "/proc/weights.safetensors")


CASES: list[tuple[Callable[[Path], None], type[Exception], int, str, str]] = [
    (write_to_full_disk, TemporaryFailure, errno.ENOSPC, "out", "free space there, then run the same command again"),
    (write_array_to_full_disk, TemporaryFailure, errno.ENOSPC, "out", "free space there"),
    (write_below_a_file, UserError, errno.ENOTDIR, "file/manifest.json", "a part of this path is a file"),
    (write_over_a_folder, UserError, errno.EISDIR, "taken", "this is a folder, not a file"),
    (open_too_many, UserError, errno.EMFILE, "manifest.json", "ulimit -n"),
    (write_in_rust, UserError, errno.ENOENT, "out", "check the path"),
]


@pytest.mark.parametrize(
    ("cause", "kind", "number", "place", "remedy"), CASES, ids=lambda one: getattr(one, "__name__", "")
)
def test_real_errors_are_explained(
    cause: Callable[[Path], None], kind: type[Exception], number: int, place: str, remedy: str, tmp_path: Path
) -> None:
    with pytest.raises(Exception) as raised:
        cause(tmp_path)
    failure = explain(raised.value, default_path=tmp_path / "out")
    assert type(failure) is kind
    text = str(failure)
    assert str(tmp_path / place) in text
    assert os.strerror(number) in text
    assert remedy in text


@pytest.mark.parametrize(
    "error", [KeyError("key"), OSError("SmolLM is not a local folder"), RuntimeError("at\n[Errno 2]")]
)
def test_internal_errors_stay_internal(error: Exception) -> None:
    assert explain(error) is None


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, TemporaryFailure), (errno.EACCES, UserError)])
def test_error_of_the_system_behind_a_mistake_decides(number: int, kind: type[Exception]) -> None:
    mistake = UserError("data.index_cache", "cache", "it cannot be written", "name a folder with room")
    mistake.__cause__ = OSError(number, os.strerror(number))
    failure = explain(mistake)
    assert type(failure) is kind
    assert "name a folder with room" in str(failure)


def test_temporary_file_is_not_what_the_user_hears_of(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        write_atomically(tmp_path / "nowhere" / "manifest.json", "{}")
    assert raised.value.filename == str(tmp_path / "nowhere" / "manifest.json")


def test_file_that_is_named_stays_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised, naming(tmp_path / "output"):
        (tmp_path / "input").read_text()
    assert raised.value.filename == str(tmp_path / "input")


@contextmanager
def no_open_files_left() -> Iterator[None]:
    former = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, former)


def test_input_that_the_system_refuses_is_not_called_damaged(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"text": "a"}) + "\n")
    with pytest.raises(UserError) as raised, no_open_files_left():
        next(read_rows([file], ["text"]))
    assert f"file = {file}" in str(raised.value)
    assert "ulimit -n" in str(raised.value)
    assert "damaged" not in str(raised.value)
    assert errno_of(raised.value.__cause__ or raised.value) == errno.EMFILE
