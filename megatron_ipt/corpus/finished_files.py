"""The files that an interrupted stage has finished, so that the same command keeps them and writes the others.

A file is written under a temporary name and hashed on the way; it gets its name when it is on the disk, and is then
recorded in `.finished.json`, which exists until the stage is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from megatron_ipt.corpus.manifest import FileRecord, record_file, write_atomically
from megatron_ipt.system_errors import naming

_LIST_NAME = ".finished.json"
_PARTIAL_SUFFIX = ".partial"
_PIECE_BYTES = 2**22


class HashedFile:
    """A binary file that is hashed while it is written."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle, self._digest = handle, hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes | memoryview) -> int:
        """Append `data`; pieces of it are hashed and written while they are in the processor's cache."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _PIECE_BYTES):
            piece = view[start : start + _PIECE_BYTES]
            self._digest.update(piece)
            self._handle.write(piece)
        self.size_bytes += len(view)
        return len(view)

    def flush(self) -> None:
        """Do nothing; torch.save calls this after each tensor."""

    def sync(self) -> None:
        """Flush everything to the disk."""
        self._handle.flush()
        os.fsync(self._handle.fileno())

    @property
    def sha256(self) -> str:
        """The hash of everything written so far."""
        return self._digest.hexdigest()


@dataclass(frozen=True)
class Finished:
    """A file that is on the disk, and a JSON value that says what it contains."""

    record: FileRecord
    contents: Any


class FinishedFiles:
    """The finished files below one folder; threads may share an instance."""

    def __init__(self, folder: Path) -> None:
        """Read the list that an interrupted run of the stage has left in `folder`, if any."""
        self._folder, self._list = folder, folder / _LIST_NAME
        self._lock = threading.Lock()
        self._files: dict[str, Finished] = {}
        if self._list.is_file():
            for entry in json.loads(self._list.read_text(encoding="utf-8")):
                record = FileRecord(**entry["record"])
                self._files[record.path] = Finished(record, entry["contents"])

    def __bool__(self) -> bool:
        """Return whether any file is finished."""
        return bool(self._files)

    def find(self, file: Path) -> Finished | None:
        """Return the entry of `file` if it is finished and still has its size and hash; reads the file."""
        known = self._files.get(os.path.relpath(file, self._folder))
        if known is None or not file.is_file() or file.stat().st_size != known.record.size_bytes:
            return None
        return known if record_file(file, self._folder) == known.record else None

    def present_bytes(self) -> int:
        """Return the size of the files of an interrupted run: finished ones, and those that will be written over."""
        files = {*self._partial_files(), *(self._folder / path for path in self._files)}
        return sum(file.stat().st_size for file in files if file.is_file())

    @contextmanager
    def writing(self, file: Path) -> Iterator[HashedFile]:
        """Open `file` under a temporary name, which is removed if `finish` does not replace it."""
        partial = _partial(file)
        try:
            with naming(file, partial), partial.open("wb") as handle:
                yield HashedFile(handle)
        finally:
            partial.unlink(missing_ok=True)

    def finish(self, file: Path, written: HashedFile, contents: Any) -> Finished:
        """Flush what was `written` to the disk, give it the name `file`, and record it."""
        written.sync()
        _partial(file).replace(file)
        record = FileRecord(os.path.relpath(file, self._folder), written.size_bytes, written.sha256)
        finished = Finished(record, contents)
        with self._lock:
            self._files[record.path] = finished
            write_atomically(self._list, json.dumps([asdict(entry) for entry in self._files.values()]) + "\n")
        return finished

    def clear(self) -> None:
        """Forget all files, and remove those that were cut short: the stage is complete, or has to begin again."""
        self._list.unlink(missing_ok=True)
        self._files.clear()
        for file in self._partial_files():
            file.unlink()

    def _partial_files(self) -> list[Path]:
        return [file for file in self._folder.rglob(f".*{_PARTIAL_SUFFIX}") if file.is_file()]


def _partial(file: Path) -> Path:
    return file.with_name(f".{file.name}{_PARTIAL_SUFFIX}")
