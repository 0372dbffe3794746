"""A synthesis under way, on disk: a part that is there is finished, whatever killed the run after it.

A part with texts that have no answer is pending: its other chains are kept, and the next run asks for these again. When
all parts are there, and few enough texts were refused, what is pending is settled.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from megatron_ipt.corpus.jsonl import read_records
from megatron_ipt.corpus.manifest import write_atomically
from megatron_ipt.synthesis.engines.engine import Failure
from megatron_ipt.synthesis.records import ChainRecord
from megatron_ipt.synthesis.scheduler import PartId

_PART, _PENDING = "part", "pending"


@dataclass(frozen=True)
class Reading:
    """What reading one input file to its end told: parts, texts to augment, rows skipped, texts left out."""

    parts: int
    augmented_texts: int
    skipped_rows: int
    contaminated: list[dict[str, Any]]


class Workspace:
    """FOLDER/work: for each input file its parts, what reading it told, and what finishing it counted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "work"

    def has_part(self, part: PartId) -> bool:
        """Whether the part is finished."""
        return self._part_file(part).is_file()

    def has_results(self) -> bool:
        """Whether any part, finished or pending, is there."""
        return any(True for kind in (_PART, _PENDING) for _ in self.root.glob(f"[0-9]*/{kind}-*.jsonl"))

    def write_part(self, part: PartId, records: Sequence[ChainRecord]) -> None:
        """Write a part, so that it is there whole or not at all."""
        is_pending = any(record.failures for record in records)
        file = self._pending_file(part) if is_pending else self._part_file(part)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, "".join(orjson.dumps(record.to_row()).decode() + "\n" for record in records))
        if not is_pending:
            self._pending_file(part).unlink(missing_ok=True)

    def read_pending(self, part: PartId) -> list[ChainRecord]:
        """The chains of a part with texts that have no answer; none where the part is not there."""
        file = self._pending_file(part)
        return list(_records_of(file)) if file.is_file() else []

    def failures(self) -> list[tuple[str, Failure]]:
        """The ids of texts that have no answer, and why."""
        return [one for file in self._pending_files() for record in _records_of(file) for one in record.failures]

    def settle(self) -> None:
        """Let the pending parts be finished ones, with the failures that they have."""
        for file in self._pending_files():
            file.rename(file.with_name(file.name.replace(_PENDING, _PART)))

    def read_records(self, file_number: int) -> Iterator[ChainRecord]:
        """The chains of one input file, in order."""
        reading = self.read_reading(file_number)
        assert reading is not None, f"input file {file_number} was not read to its end"
        for number in range(reading.parts):
            yield from _records_of(self._part_file((file_number, number)))

    def write_reading(self, file_number: int, reading: Reading) -> None:
        """Note that the file was read to its end."""
        self._write(self._file_folder(file_number) / "reading.json", asdict(reading))

    def read_reading(self, file_number: int) -> Reading | None:
        """What reading the file told; None when it has not been read to its end."""
        values = self._read(self._file_folder(file_number) / "reading.json")
        return None if values is None else Reading(**values)

    def is_generated(self, file_number: int) -> bool:
        """Whether all parts of the file are there."""
        reading = self.read_reading(file_number)
        return reading is not None and all(self.has_part((file_number, number)) for number in range(reading.parts))

    def write_state(self, file_number: int, state: dict[str, Any]) -> None:
        """Note what finishing the file counted."""
        self._write(self._file_folder(file_number) / "state.json", state)

    def read_state(self, file_number: int) -> dict[str, Any] | None:
        """What finishing the file counted; None when it is not finished."""
        return self._read(self._file_folder(file_number) / "state.json")

    @property
    def clocks(self) -> Path:
        """Folder of the workers' clocks."""
        return self.root / "clocks"

    @property
    def tallies(self) -> Path:
        """Folder of what each worker did in this run."""
        return self.root / "tallies"

    def forget_tallies(self) -> None:
        """Take away those of a former run."""
        shutil.rmtree(self.tallies, ignore_errors=True)

    def remove(self) -> None:
        """Take the workspace away, its results being elsewhere."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _file_folder(self, file_number: int) -> Path:
        return self.root / f"{file_number:05d}"

    def _part_file(self, part: PartId) -> Path:
        file_number, number = part
        return self._file_folder(file_number) / f"{_PART}-{number:06d}.jsonl"

    def _pending_file(self, part: PartId) -> Path:
        file_number, number = part
        return self._file_folder(file_number) / f"{_PENDING}-{number:06d}.jsonl"

    def _pending_files(self) -> list[Path]:
        """Those of parts that are not finished; a kill can leave both."""
        files = sorted(self.root.glob(f"[0-9]*/{_PENDING}-*.jsonl"))
        return [file for file in files if not file.with_name(file.name.replace(_PENDING, _PART)).is_file()]

    @staticmethod
    def _write(file: Path, values: dict[str, Any]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, orjson.dumps(values).decode())

    @staticmethod
    def _read(file: Path) -> dict[str, Any] | None:
        return orjson.loads(file.read_bytes()) if file.is_file() else None


def _records_of(file: Path) -> Iterator[ChainRecord]:
    return (ChainRecord.from_row(row) for row in read_records(file))
