"""checkpoint.json: the progress of the run, and the size and hash of every file, to detect damage before loading.

It is written last: a folder without it is not a finished checkpoint.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_ipt.checkpointing.layout import CONTENTS_NAME
from megatron_ipt.corpus.manifest import FileRecord, in_threads, read_manifest, record_file, write_atomically
from megatron_ipt.errors import UserError


@dataclass(frozen=True)
class Contents:
    """The content of checkpoint.json."""

    iteration: int
    consumed_train_samples: int
    files: list[FileRecord]
    validation_loss: float | None = None
    """The validation loss at this iteration; None if it was not measured."""


_FORMER_FIELDS = ("recent_losses",)
"""Fields of earlier versions; `callback_states` reads this one."""


def files_of(folder: Path) -> list[Path]:
    """Return all saved files in a fixed order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def record_files(folder: Path, files: Sequence[Path]) -> list[FileRecord]:
    """Flush `files` to disk, and return their sizes and hashes."""
    for file in files:
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    return [*in_threads(lambda file: record_file(file, folder), files)]


def write_contents(folder: Path, contents: Contents) -> None:
    """Write checkpoint.json into `folder`, which makes it a finished checkpoint."""
    write_atomically(folder / CONTENTS_NAME, json.dumps(asdict(contents), indent=2) + "\n")


def read_contents(folder: Path) -> Contents:
    """Read checkpoint.json in `folder`, and check it against the manifest of the checkpoint.

    Raises:
        ValueError: it is missing, cannot be read, or was changed.
    """
    try:
        manifest = read_manifest(folder)
        if manifest is not None and (damage := find_damage(folder, manifest.outputs)) is not None:
            raise ValueError(damage)
        values = json.loads((folder / CONTENTS_NAME).read_text(encoding="utf-8"))
        values = {name: value for name, value in values.items() if name not in _FORMER_FIELDS}
        return Contents(**{**values, "files": [FileRecord(**record) for record in values["files"]]})
    except (OSError, KeyError, TypeError, AttributeError, UserError) as error:
        raise ValueError(f"{CONTENTS_NAME}: {error}") from error


def sync_folder(folder: Path) -> None:
    """Flush the directory entries of `folder` to disk, so that renames survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def find_missing(folder: Path, records: Sequence[FileRecord]) -> str | None:
    """Describe the first file that is missing or has a different size than recorded; None if there is none."""
    for record in records:
        file = folder / record.path
        if not file.is_file():
            return f"{record.path} is missing"
        if (size_bytes := file.stat().st_size) != record.size_bytes:
            return f"{record.path} has {size_bytes} bytes instead of {record.size_bytes}"
    return None


def find_damage(folder: Path, records: Sequence[FileRecord]) -> str | None:
    """Describe the first file that differs from its record; None if there is none. Reads and hashes every file."""
    if (missing := find_missing(folder, records)) is not None:
        return missing
    found = in_threads(lambda record: record_file(folder / record.path, folder), records)
    changed = (then.path for then, now in zip(records, found, strict=True) if now.sha256 != then.sha256)
    return next((f"{path} has changed since it was saved" for path in changed), None)
