"""Where checkpoints lie: RUN/checkpoints/iter_0000100/, and a pointer to the newest that is written last."""

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
    """The folder that holds the checkpoints of `run`."""
    return run / "checkpoints"


def iteration_folder(run: Path, iteration: int) -> Path:
    """The checkpoint of `run` after `iteration` steps."""
    return checkpoints_folder(run) / f"iter_{iteration:07d}"


def iteration_folders(run: Path) -> dict[int, Path]:
    """Everything with the name of a checkpoint, sealed or not, by iteration, newest first."""
    folder = checkpoints_folder(run)
    paths = list(folder.iterdir()) if folder.is_dir() else []
    found = {int(match[1]): path for path in paths if (match := _FOLDER_NAME.fullmatch(path.name))}
    return dict(sorted(found.items(), reverse=True))


def saved_iterations(run: Path) -> list[int]:
    """The iterations that have a finished checkpoint, newest first."""
    return [iteration for iteration, path in iteration_folders(run).items() if (path / CONTENTS_NAME).is_file()]


def partial_folder(run: Path, iteration: int, writer: str) -> Path:
    """Where `writer` writes the checkpoint after `iteration` steps before it gets its name."""
    return checkpoints_folder(run) / f".iter_{iteration:07d}.{writer}.partial"


def partial_folders(run: Path) -> list[Path]:
    """Folders of saves and removals that were interrupted."""
    return sorted(checkpoints_folder(run).glob(_PARTIAL_NAMES))


def unsealed_folders(run: Path) -> list[Path]:
    """Folders with the name of a checkpoint but without its seal: not written by a save, or changed since."""
    return [path for path in iteration_folders(run).values() if not (path / CONTENTS_NAME).is_file()]


def abandon(folder: Path) -> Path:
    """Rename a checkpoint that no longer belongs to the history of its run; nothing is removed.

    It stays in the same folder, so that a relative symbolic link still leads where it did.
    """
    suffixes = chain([""], (f".{number}" for number in count(2)))
    places = (folder.with_name(f"abandoned_{folder.name}{suffix}") for suffix in suffixes)
    return folder.rename(next(place for place in places if not os.path.lexists(place)))


def write_latest(run: Path, iteration: int) -> None:
    """Point to the newest checkpoint: written beside, brought to the disk, renamed."""
    write_atomically(checkpoints_folder(run) / _POINTER_NAME, f"{iteration}\n")


def read_latest(run: Path) -> int | None:
    """The iteration that the pointer names; None where there is no readable pointer."""
    try:
        return int((checkpoints_folder(run) / _POINTER_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def resolve_checkpoint(path: Path) -> Path | None:
    """The checkpoint folder that `path` means: itself, or the newest one of a run; None where there is none.

    A training run seals checkpoints as it goes, and each counts; what another stage wrote counts once it is complete.
    """
    checkpoint = _sealed_checkpoint(path)
    return None if checkpoint is None or _is_of_unfinished_stage(checkpoint) else checkpoint


def _sealed_checkpoint(path: Path) -> Path | None:
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
