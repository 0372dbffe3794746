"""The files of one rank in a local checkpoint.

FOLDER/HISTORY/rank_00003/iteration_0000025/
    state.safetensors   the tensors that the rank holds
    rank.json           progress, layout, and size and hash of every file
    callbacks.*         on rank 0: states of callbacks

Each rank has its own folder, so that no rank waits for another, or writes where another removes files.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from megatron_ipt.checkpointing.callback_states import CallbackState, write_callback_states
from megatron_ipt.checkpointing.contents import files_of, find_damage, record_files, sync_folder
from megatron_ipt.checkpointing.tensor_file import file_header, tensor_bytes
from megatron_ipt.corpus.finished_files import HashedFile
from megatron_ipt.corpus.manifest import FileRecord, write_atomically
from megatron_ipt.system_errors import naming

TENSORS_NAME = "state.safetensors"
CONTENTS_NAME = "rank.json"
_FOLDER_NAME = re.compile(r"iteration_(\d{7,})")


@dataclass(frozen=True)
class RankContents:
    """The content of rank.json."""

    iteration: int
    consumed_train_samples: int
    validation_loss: float | None
    steps: list[float]
    """The step count of each optimizer."""
    shared_iteration: int
    """On rank 0: the iteration of the newest shared checkpoint at the time of the save; 0 without one."""
    layout: str
    """The rank, and the parallel sizes."""
    description: str
    """See `rank_state.describe`."""
    attempt: str
    """The ID of the attempt that saved it: different attempts may have saved the same iteration on different ranks."""
    files: list[FileRecord]


def iteration_folder(rank_folder: Path, iteration: int) -> Path:
    """Return the folder of a rank's checkpoint after `iteration` steps."""
    return rank_folder / f"iteration_{iteration:07d}"


def saved_iterations(rank_folder: Path) -> list[int]:
    """Return the iterations of the checkpoints of a rank, newest first."""
    paths = list(rank_folder.iterdir()) if rank_folder.is_dir() else []
    return sorted((int(match[1]) for path in paths if (match := _FOLDER_NAME.fullmatch(path.name))), reverse=True)


def write_checkpoint(
    rank_folder: Path,
    contents: RankContents,
    tensors: Mapping[str, torch.Tensor],
    callback_states: Mapping[str, CallbackState],
    kept: Collection[int],
) -> Path:
    """Remove the checkpoints of a rank that are not in `kept`, write a new one, and return its folder.

    Args:
        rank_folder: the folder of the rank; created if it does not exist.
        contents: the content of rank.json, without the files.
        tensors: the state, in host memory.
        callback_states: by callback name; empty on ranks other than 0.
        kept: the iterations of the checkpoints to keep.

    Raises:
        OSError: it cannot be written; the checkpoints in `kept` are unchanged.
        UserError: the state of a callback cannot be saved.
    """
    folder = iteration_folder(rank_folder, contents.iteration)
    partial = rank_folder / f".{folder.name}.{secrets.token_hex(4)}.partial"
    keep_only(rank_folder, kept)
    partial.mkdir(parents=True)
    try:
        records = [_write_tensors(partial / TENSORS_NAME, tensors)]
        if callback_states:
            write_callback_states(partial, callback_states)
            records += record_files(partial, [file for file in files_of(partial) if file.name != TENSORS_NAME])
        _write_contents(partial / CONTENTS_NAME, replace(contents, files=records))
        sync_folder(partial)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_folder(rank_folder)
    return folder


def read_contents(folder: Path) -> RankContents:
    """Read rank.json of a checkpoint.

    Raises:
        ValueError: it is missing or invalid, or has changed since it was saved.
    """
    try:
        stored = json.loads((folder / CONTENTS_NAME).read_text(encoding="utf-8"))
        values = stored["contents"]
        if stored["sha256"] != _hash(values):
            raise ValueError("it has changed since it was saved")
        return RankContents(**{**values, "files": [FileRecord(**record) for record in values["files"]]})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{CONTENTS_NAME}: {error}") from error


@dataclass(frozen=True)
class Inspected:
    """Whether one rank can resume from one of its checkpoints."""

    attempt: str
    """The ID of the attempt that saved it; empty if rank.json cannot be read."""
    problem: str | None
    """Why the rank cannot resume from it; None if it can."""


def inspect(folder: Path, layout: str, description: str, shared_iteration: int) -> Inspected:
    """Find out whether a rank can resume from a checkpoint. Reads and hashes every file.

    Args:
        folder: the checkpoint.
        layout: the current rank and parallel sizes.
        description: the description of the state to load.
        shared_iteration: the iteration of the current newest shared checkpoint; 0 without one.
    """
    try:
        contents = read_contents(folder)
    except ValueError as error:
        return Inspected("", str(error))
    if contents.layout != layout:
        problem: str | None = f"it was saved by {contents.layout}, and this is {layout}"
    elif contents.description != description:
        problem = "it was saved with different model or optimizer settings"
    elif contents.shared_iteration > shared_iteration:
        followed = contents.shared_iteration
        problem = f"it was saved after the shared checkpoint of iteration {followed}, which the run no longer has"
    else:
        try:
            problem = find_damage(folder, contents.files)
        except OSError as error:
            problem = str(error)
    return Inspected(contents.attempt, problem)


def keep_only(rank_folder: Path, iterations: Collection[int]) -> None:
    """Remove all checkpoints of a rank except those of `iterations`; failures to remove are ignored."""
    kept = {iteration_folder(rank_folder, iteration) for iteration in iterations}
    for path in rank_folder.iterdir() if rank_folder.is_dir() else ():
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _write_tensors(file: Path, tensors: Mapping[str, torch.Tensor]) -> FileRecord:
    """Write a safetensors file, and hash it in the same pass.

    Wider types come first, as in files of the library, so that all values are aligned.
    """
    ordered = sorted(tensors.items(), key=lambda item: item[1].itemsize, reverse=True)
    with naming(file), file.open("wb") as handle:
        written = HashedFile(handle)
        written.write(file_header({name: (tensor.dtype, tensor.shape) for name, tensor in ordered}))
        for _, tensor in ordered:
            written.write(tensor_bytes(tensor))
        written.sync()
    return FileRecord(file.name, written.size_bytes, written.sha256)


def _write_contents(file: Path, contents: RankContents) -> None:
    values = asdict(contents)
    write_atomically(file, json.dumps({"contents": values, "sha256": _hash(values)}, indent=2) + "\n")


def _hash(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
