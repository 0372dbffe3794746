"""Rows of JSONL (.gz, .zst) and parquet files, streamed; what cannot be read is named by FILE:LINE, never dropped.

Other readers log a broken row without its place and go on, or end a file at its first invalid byte.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import orjson

from megatron_ipt.errors import Problem, UserError

Good = TypeVar("Good")

BAD_INPUT_CHOICES = ("fail", "skip")
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_BUFFER_BYTES = 1 << 20
_PARQUET_BATCH_ROWS = 64


@dataclass(frozen=True, slots=True)
class Row:
    """The asked-for values of one row; `line` counts from 1 (for parquet: the row's number)."""

    file: Path
    line: int
    values: dict[str, str]


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """A whole row, whatever its fields hold; `line` counts from 1 (for parquet: the row's number)."""

    file: Path
    line: int
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be read, and why."""

    file: Path
    line: int
    reason: str

    @property
    def place(self) -> str:
        """FILE:LINE."""
        return f"{self.file}:{self.line}"


def expand_inputs(patterns: Sequence[str]) -> list[Path]:
    """The files that paths and globs name: in the order given, each glob sorted, every file once.

    Raises:
        UserError: listing every path that is no file and every glob that matches nothing.
    """
    problems: list[Problem] = []
    files: dict[str, Path] = {}
    for pattern in patterns:
        found = _files_of(pattern)
        if not found:
            problems.append(_problem_of(pattern))
        for file in found:
            files.setdefault(os.path.realpath(file), file)
    if not patterns:
        problems.append(Problem("input", "[]", "no input file is named", "give at least one file or glob"))
    if problems:
        raise UserError.of(problems)
    return list(files.values())


def read_rows(
    files: Sequence[Path],
    keys: Sequence[str],
    bad_input: str = "fail",
    report: Callable[[BadRow], None] = lambda bad: None,
    optional_keys: Sequence[str] = (),
) -> Iterator[Row]:
    """Stream the rows of `files` with the text under each of `keys`.

    A row is bad when it is not valid UTF-8 or JSON (a lone surrogate is neither), is no object, or holds no text
    under one of `keys`. Under `optional_keys` a whole number counts as text, and an absent or null value is left out
    of `Row.values`. Blank lines are no rows.

    Args:
        bad_input: fail, or skip: hand each bad row to `report` and go on.

    Raises:
        UserError: at FILE:LINE for a bad row under `fail`; a parquet file without the column; a `bad_input` that is
            neither.
    """
    _check_choice(bad_input)
    rows = (row for file in files for row in _rows_of(file, tuple(keys), tuple(optional_keys)))
    return _passed(rows, bad_input == "skip", report)


def read_objects(
    files: Sequence[Path], bad_input: str = "fail", report: Callable[[BadRow], None] = lambda bad: None
) -> Iterator[ObjectRow]:
    """Stream whole rows of `files`; a row is bad when it is not valid UTF-8 or JSON, or no object.

    Raises:
        UserError: at FILE:LINE for a bad row under `fail`; a `bad_input` that is no choice.
    """
    _check_choice(bad_input)
    rows = (row for file in files for row in _objects_of(file))
    return _passed(rows, bad_input == "skip", report)


def _check_choice(bad_input: str) -> None:
    if bad_input not in BAD_INPUT_CHOICES:
        raise UserError("bad_input", bad_input, "not a known choice", f"one of {', '.join(BAD_INPUT_CHOICES)}")


def _passed(rows: Iterable[Good | BadRow], skips: bool, report: Callable[[BadRow], None]) -> Iterator[Good]:
    for row in rows:
        if not isinstance(row, BadRow):
            yield row
        elif skips:
            report(row)
        else:
            raise UserError(row.place, "(bad row)", row.reason, "mend the row, or skip such rows: bad_input=skip")


def _rows_of(file: Path, keys: tuple[str, ...], optional_keys: tuple[str, ...]) -> Iterator[Row | BadRow]:
    if file.suffix == ".parquet":
        return _read_parquet(file, keys, optional_keys)
    return _read_jsonl(file, lambda number, found: _row(file, number, found, keys, optional_keys))


def _objects_of(file: Path) -> Iterator[ObjectRow | BadRow]:
    if file.suffix == ".parquet":
        return _read_parquet_objects(file)
    return _read_jsonl(file, lambda number, found: _object(file, number, found))


def _object(file: Path, number: int, found: Any) -> ObjectRow | BadRow:
    if not isinstance(found, dict):
        return BadRow(file, number, f"not an object with fields but {type(found).__name__}")
    return ObjectRow(file, number, found)


def _read_parquet_objects(file: Path) -> Iterator[ObjectRow | BadRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES) as parquet:
            for batch in parquet.iter_batches(_PARQUET_BATCH_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield ObjectRow(file, number, values)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        yield BadRow(file, number + 1, f"the file cannot be read further: {error}")


def _read_jsonl(file: Path, make: Callable[[int, Any], Good | BadRow]) -> Iterator[Good | BadRow]:
    number = 0
    try:
        with _open_lines(file) as lines:
            for number, line in enumerate(lines, start=1):
                if line.isspace():
                    continue
                try:
                    yield make(number, orjson.loads(line))
                except orjson.JSONDecodeError as error:
                    yield BadRow(file, number, _json_fault(line, error))
    except OSError as error:
        yield BadRow(file, number + 1, f"the file cannot be read further: {error}")


def _read_parquet(file: Path, keys: tuple[str, ...], optional_keys: tuple[str, ...]) -> Iterator[Row | BadRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES) as parquet:
            columns = parquet.schema_arrow.names
            if missing := [key for key in keys if key not in columns]:
                raise UserError(str(file), missing[0], "no column of that name", f"one of: {', '.join(columns)}")
            wanted = [key for key in (*keys, *optional_keys) if key in columns]
            for batch in parquet.iter_batches(_PARQUET_BATCH_ROWS, columns=wanted):
                for values in _as_bytes(batch).to_pylist():
                    number += 1
                    yield _row(file, number, values, keys, optional_keys)
    except (OSError, pa.ArrowException) as error:
        yield BadRow(file, number + 1, f"the file cannot be read further: {error}")


def _row(file: Path, number: int, found: Any, keys: tuple[str, ...], optional_keys: tuple[str, ...]) -> Row | BadRow:
    if not isinstance(found, dict):
        return BadRow(file, number, f"not an object with fields but {type(found).__name__}")
    values: dict[str, str] = {}
    for key in (*keys, *optional_keys):
        value = found.get(key)
        if isinstance(value, bytes):
            try:
                value = value.decode()
            except UnicodeDecodeError as error:
                return BadRow(file, number, f"field {key!r}: {_utf8_fault(error)}")
        if key not in keys:
            if value is None:
                continue
            value = str(value) if type(value) is int else value
        if not isinstance(value, str):
            return BadRow(file, number, _no_text(key, value, found))
        values[key] = value
    return Row(file, number, values)


def _no_text(key: str, value: object, found: dict[str, Any]) -> str:
    if key in found:
        return f"field {key!r} holds {'null' if value is None else type(value).__name__}, not text"
    return f"no field {key!r}; it has {', '.join(map(repr, found)) or 'none'}"


def _json_fault(line: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        line.decode()
    except UnicodeDecodeError as fault:
        return _utf8_fault(fault)
    return f"not valid JSON: {error}"


def _utf8_fault(fault: UnicodeDecodeError) -> str:
    return f"not valid UTF-8: byte 0x{fault.object[fault.start]:02x} at position {fault.start + 1}"


def _as_bytes(batch: Any) -> Any:
    """Text columns of an Arrow record batch as bytes: Arrow itself decodes a batch whole, or not at all."""
    import pyarrow as pa

    text_types = (pa.string(), pa.large_string())
    columns = [column.cast(pa.large_binary()) if column.type in text_types else column for column in batch.columns]
    return pa.record_batch(columns, names=batch.schema.names)


def _open_lines(file: Path) -> BinaryIO:
    """Binary lines of a plain or compressed file; a cut-off compressed stream raises OSError."""
    compression = _COMPRESSIONS.get(file.suffix)
    if compression is None:
        return file.open("rb", buffering=_BUFFER_BYTES)
    import pyarrow as pa

    stream = pa.input_stream(str(file), compression=compression)
    return cast(BinaryIO, io.BufferedReader(stream, _BUFFER_BYTES))


def _files_of(pattern: str) -> list[Path]:
    path = Path(pattern)
    if path.is_file():
        return [path]
    if not has_magic(pattern):
        return []
    matches = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    return sorted(match for match in matches if match.is_file() and not match.name.startswith("."))


def _problem_of(pattern: str) -> Problem:
    if Path(pattern).is_dir():
        return Problem("input", pattern, "it is a folder", f"name its files: {Path(pattern) / '*.jsonl'}")
    if has_magic(pattern):
        return Problem("input", pattern, "the glob matches no file", "check the pattern (quote it in the shell)")
    return Problem("input", pattern, "no such file", "check the path, or run the stage that makes it")
