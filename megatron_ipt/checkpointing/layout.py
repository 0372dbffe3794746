"""Layout of checkpoints on disk: RUN/checkpoints/iter_0000100/, and a file that names the newest, written last."""

from __future__ import annotations

import os
import re
from itertools import chain, count
from pathlib import Path

from megatron_ipt.corpus.manifest import read_manifest, write_atomically

RUN_CONFIG_NAME = "run_config.yaml"
CONTENTS_NAME = "checkpoint.json"
_POINTER_NAME = "latest_checkpointed_iteration.txt"
_FOLDER_NAME = re.compile(r"iter_(\d{7,})")
_PARTIAL_NAMES = ".iter_*.partial"


def checkpoints_folder(run: Path) -> Path:
    """Return the folder of the checkpoints of `run`."""
    return run / "checkpoints"


def iteration_folder(run: Path, iteration: int) -> Path:
    """Return the folder of the checkpoint of `run` after `iteration` steps."""
    return checkpoints_folder(run) / f"iter_{iteration:07d}"


def iteration_folders(run: Path) -> dict[int, Path]:
    """Return all folders with the name of a checkpoint, finished or not, by iteration, newest first."""
    folder = checkpoints_folder(run)
    paths = list(folder.iterdir()) if folder.is_dir() else []
    found = {int(match[1]): path for path in paths if (match := _FOLDER_NAME.fullmatch(path.name))}
    return dict(sorted(found.items(), reverse=True))


def saved_iterations(run: Path) -> list[int]:
    """Return the iterations with a finished checkpoint, newest first."""
    return [iteration for iteration, path in iteration_folders(run).items() if (path / CONTENTS_NAME).is_file()]


def reachable_iterations(run: Path) -> list[int]:
    """Return the finished checkpoints up to the one recorded as the newest, newest first; all if none is that early."""
    iterations, latest = saved_iterations(run), read_latest(run)
    if latest is None:
        return iterations
    return [iteration for iteration in iterations if iteration <= latest] or iterations


def partial_folder(run: Path, iteration: int, writer: str) -> Path:
    """Return the folder in which `writer` writes the checkpoint after `iteration` steps until it is finished."""
    return checkpoints_folder(run) / f".iter_{iteration:07d}.{writer}.partial"


def partial_folders(run: Path) -> list[Path]:
    """Return the folders of interrupted saves and removals."""
    return sorted(checkpoints_folder(run).glob(_PARTIAL_NAMES))


def incomplete_folders(run: Path) -> list[Path]:
    """Return folders named like a checkpoint but without checkpoint.json: not written by a save, or changed since."""
    return [path for path in iteration_folders(run).values() if not (path / CONTENTS_NAME).is_file()]


def abandon(folder: Path) -> Path:
    """Rename a checkpoint that no longer belongs to the history of its run, and return the new path.

    It stays in the same folder, so that a relative symbolic link remains valid.
    """
    suffixes = chain([""], (f".{number}" for number in count(2)))
    paths = (folder.with_name(f"abandoned_{folder.name}{suffix}") for suffix in suffixes)
    return folder.rename(next(path for path in paths if not os.path.lexists(path)))


def write_latest(run: Path, iteration: int) -> None:
    """Atomically write the file that names the newest checkpoint."""
    write_atomically(checkpoints_folder(run) / _POINTER_NAME, f"{iteration}\n")


def read_latest(run: Path) -> int | None:
    """Return the iteration in the file that names the newest checkpoint; None if it is missing or unreadable."""
    try:
        return int((checkpoints_folder(run) / _POINTER_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def resolve_checkpoint(path: Path) -> Path | None:
    """Return the checkpoint folder that `path` refers to: itself, or the newest of a run; None if there is none.

    Each finished checkpoint of a training run counts, even while the run continues; a checkpoint that another stage
    wrote counts once that stage is complete.
    """
    checkpoint = _finished_checkpoint(path)
    return None if checkpoint is None or _is_of_unfinished_stage(checkpoint) else checkpoint


def _finished_checkpoint(path: Path) -> Path | None:
    if (path / CONTENTS_NAME).is_file():
        return path
    iterations = saved_iterations(path)
    latest = read_latest(path)
    if latest is not None and latest in iterations:
        return iteration_folder(path, latest)
    return iteration_folder(path, iterations[0]) if iterations else None


def _is_of_unfinished_stage(checkpoint: Path) -> bool:
    manifest = read_manifest(checkpoint.resolve().parent.parent)
    return manifest is not None and manifest.stage != "pretrain" and manifest.status != "complete"
