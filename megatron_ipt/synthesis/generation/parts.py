"""The state of a running synthesis on disk: a part that exists is finished, whatever killed the run afterwards.

A part with texts that have no answer is pending: its other chains are kept, and the next run sends these texts again.
Once all parts exist, and few enough texts were refused, the pending parts are accepted.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from megatron_ipt.corpus.jsonl import read_records
from megatron_ipt.corpus.manifest import JsonObject, write_atomically
from megatron_ipt.lm.engine import Failure
from megatron_ipt.synthesis.generation.scheduler import PartId
from megatron_ipt.synthesis.records import ChainRecord

_PART, _PENDING = "part", "pending"


@dataclass(frozen=True)
class InputSummary:
    """The result of reading one input file to its end.

    `parts` is the number of its parts, `augmented_texts` of texts that get pairs, `skipped_rows` of bad rows;
    `contaminated` lists the texts that were left out.
    """

    parts: int
    augmented_texts: int
    skipped_rows: int
    contaminated: list[JsonObject]


class Workspace:
    """FOLDER/work: for each input file, its parts, the summary of its input, and the state after finishing it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "work"

    def has_part(self, part: PartId) -> bool:
        """Return whether the part is finished."""
        return self._part_file(part).is_file()

    def has_results(self) -> bool:
        """Return whether any part, finished or pending, exists."""
        return any(True for kind in (_PART, _PENDING) for _ in self.root.glob(f"[0-9]*/{kind}-*.jsonl"))

    def write_part(self, part: PartId, records: Sequence[ChainRecord]) -> None:
        """Write a part atomically: it exists in full or not at all."""
        is_pending = any(record.failures for record in records)
        file = self._pending_file(part) if is_pending else self._part_file(part)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, "".join(orjson.dumps(record.to_row()).decode() + "\n" for record in records))
        if not is_pending:
            self._pending_file(part).unlink(missing_ok=True)

    def read_pending(self, part: PartId) -> list[ChainRecord]:
        """Read the chains of a pending part; empty if the part is not pending."""
        file = self._pending_file(part)
        return list(_records_of(file)) if file.is_file() else []

    def failures(self) -> list[tuple[str, Failure]]:
        """Return the ids of the texts that have no answer, and the reasons."""
        return [one for file in self._pending_files() for record in _records_of(file) for one in record.failures]

    def accept_pending(self) -> None:
        """Convert the pending parts to finished parts, including their failures."""
        for file in self._pending_files():
            file.rename(file.with_name(file.name.replace(_PENDING, _PART)))

    def read_records(self, file_number: int) -> Iterator[ChainRecord]:
        """Read the chains of one input file, in order."""
        summary = self.read_summary(file_number)
        assert summary is not None, f"input file {file_number} was not read to its end"
        for number in range(summary.parts):
            yield from _records_of(self._part_file((file_number, number)))

    def write_summary(self, file_number: int, summary: InputSummary) -> None:
        """Record that the file was read to its end."""
        self._write(self._file_folder(file_number) / "reading.json", asdict(summary))

    def read_summary(self, file_number: int) -> InputSummary | None:
        """Return the summary of the file; None if it has not been read to its end."""
        values = self._read(self._file_folder(file_number) / "reading.json")
        return None if values is None else InputSummary(**values)

    def is_generated(self, file_number: int) -> bool:
        """Return whether all parts of the file are finished."""
        summary = self.read_summary(file_number)
        return summary is not None and all(self.has_part((file_number, number)) for number in range(summary.parts))

    def write_state(self, file_number: int, state: Mapping[str, object]) -> None:
        """Record the counts and the report of a finished file."""
        self._write(self._file_folder(file_number) / "state.json", state)

    def read_state(self, file_number: int) -> JsonObject | None:
        """Return what `write_state` recorded; None if the file is not finished."""
        return self._read(self._file_folder(file_number) / "state.json")

    @property
    def clocks(self) -> Path:
        """Folder of the workers' timing records."""
        return self.root / "clocks"

    @property
    def tallies(self) -> Path:
        """Folder of the progress of each worker in this run."""
        return self.root / "tallies"

    def clear_tallies(self) -> None:
        """Remove the tallies of an earlier run."""
        shutil.rmtree(self.tallies, ignore_errors=True)

    def remove(self) -> None:
        """Remove the workspace, once its results are in the corpus."""
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
        """Return the files of unfinished parts; a kill between the two steps of `write_part` leaves both files."""
        files = sorted(self.root.glob(f"[0-9]*/{_PENDING}-*.jsonl"))
        return [file for file in files if not file.with_name(file.name.replace(_PENDING, _PART)).is_file()]

    @staticmethod
    def _write(file: Path, values: Mapping[str, object]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, orjson.dumps(values).decode())

    @staticmethod
    def _read(file: Path) -> JsonObject | None:
        return orjson.loads(file.read_bytes()) if file.is_file() else None


def _records_of(file: Path) -> Iterator[ChainRecord]:
    return (ChainRecord.from_row(row) for row in read_records(file))
