"""Rows of JSONL (.gz, .zst, .bz2, .xz) and parquet files, streamed; what cannot be read is named, never dropped.

Other readers log a broken row without its place and continue, or end a file at its first invalid byte. A broken row may
be skipped; a file that is damaged may not, because nobody knows how many rows are behind the damage.
"""

from __future__ import annotations

import codecs
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import has_magic
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import orjson

from megatron_ipt.corpus.compression import READ_ERRORS, ending_of, open_lines
from megatron_ipt.corpus.parquet_rows import read_columns
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.system_errors import explain

Good = TypeVar("Good", "Row", "ObjectRow")

_EXACT_BELOW = 2.0**53  # orjson reads whole numbers of more than 64 bits as the nearest float


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
    """Stream the rows of `files` with the text under each of `keys`; `outer.inner` reads a field within a field.

    A row is bad when it is not valid UTF-8 or JSON, is no object, or holds no text under one of `keys`. What is under
    other fields does not matter: NaN, infinities and lone surrogates spoil no row there. Under `optional_keys` a number
    counts as text, and an absent, null or NaN value is left out of `Row.values`. Blank lines are no rows.

    Args:
        files: read in this order.
        keys: fields whose text every row must have.
        bad_input: fail, or skip: hand each bad row to `report` and continue.
        report: is given the bad rows that are skipped.
        optional_keys: fields that a row may have.

    Raises:
        UserError: at FILE:LINE for a bad row under `fail`; under `skip`, for a file of nothing but bad rows. Under
            both, for a file whose remainder cannot be read, and a parquet file without the column.
    """
    fields = _Fields(tuple(keys), tuple(optional_keys))
    return chain.from_iterable(_passed(file, _rows_of(file, fields), bad_input, report) for file in files)


def read_objects(
    files: Sequence[Path], bad_input: str | None = None, report: Callable[[BadRow], None] = lambda bad: None
) -> Iterator[ObjectRow]:
    """Stream whole rows of `files`; a row is bad when it is not valid UTF-8 or JSON, or no object.

    Args:
        files: read in this order.
        bad_input: as for `read_rows`; None fails, for a stage that has no such setting.
        report: is given the bad rows that are skipped.

    Raises:
        UserError: as for `read_rows`.
    """
    return chain.from_iterable(_passed(file, _objects_of(file), bad_input, report) for file in files)


def _passed(
    file: Path, rows: Iterable[Good | BadRow], bad_input: str | None, report: Callable[[BadRow], None]
) -> Iterator[Good]:
    any_good, bad_rows, number = False, 0, 0
    skips = bad_input == "skip"
    try:
        for row in rows:
            number = row.line
            if not isinstance(row, BadRow):
                any_good = True
                yield row
            elif skips:
                bad_rows += 1
                report(row)
            else:
                remedy = "fix the row" if bad_input is None else "fix the row, or skip such rows: bad_input=skip"
                raise UserError(row.place, "(bad row)", row.reason, remedy)
    except READ_ERRORS as error:
        if (failure := explain(error, place=file)) is not None:
            raise failure from error
        reason = f"it cannot be read beyond row {number:,}: {' '.join(str(error).split()) or type(error).__name__}"
        remedy = "copy or download the file again, or leave it out of the input"
        remedy += "; bad_input=skip is for single rows" if skips else ""
        raise UserError(str(file), "(damaged)", reason, remedy) from error
    if bad_rows and not any_good:
        raise UserError(
            str(file),
            f"{bad_rows:,} bad rows",
            "not one row of it can be read; see the reasons above",
            "check its format and the names of the fields, or leave it out of the input",
        )


@dataclass(frozen=True)
class _Fields:
    """The fields of a row that are read."""

    keys: tuple[str, ...]
    optional_keys: tuple[str, ...]


def _rows_of(file: Path, fields: _Fields) -> Iterator[Row | BadRow]:
    if ending_of(file) == ".parquet":
        found = read_columns(file, fields.keys, fields.optional_keys)
        return _read_parquet(file, found, lambda number, values: _row(file, number, values, fields))
    return _read_jsonl(file, lambda number, found, line: _row(file, number, found, fields, line))


def _objects_of(file: Path) -> Iterator[ObjectRow | BadRow]:
    if ending_of(file) == ".parquet":
        return _read_parquet(file, read_columns(file), lambda number, values: ObjectRow(file, number, values))
    return _read_jsonl(file, lambda number, found, _: _object(file, number, found))


def _read_parquet(
    file: Path,
    rows: Iterable[dict[str, Any] | UnicodeDecodeError],
    make: Callable[[int, dict[str, Any]], Good | BadRow],
) -> Iterator[Good | BadRow]:
    for number, row in enumerate(rows, start=1):
        yield BadRow(file, number, _utf8_fault(row)) if isinstance(row, UnicodeDecodeError) else make(number, row)


def _object(file: Path, number: int, found: Any) -> ObjectRow | BadRow:
    if not isinstance(found, dict):
        return BadRow(file, number, f"not an object with fields but {type(found).__name__}")
    return ObjectRow(file, number, found)


def _read_jsonl(file: Path, make: Callable[[int, Any, bytes], Good | BadRow]) -> Iterator[Good | BadRow]:
    with open_lines(file) as lines:
        for number, line in enumerate(lines, start=1):
            if line.isspace():
                continue
            try:
                yield make(number, orjson.loads(line), line)
            except orjson.JSONDecodeError as error:
                line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    yield _read_otherwise(file, number, line, make) or BadRow(file, number, _json_fault(line, error))


def _read_otherwise(
    file: Path, number: int, line: bytes, make: Callable[[int, Any, bytes], Good | BadRow]
) -> Good | BadRow | None:
    """The row of a line that orjson refuses, where the fault is in no field that is read; None where it is."""
    try:
        row = make(number, json.loads(line.decode()), line)
        if not isinstance(row, BadRow):
            json.dumps(row.values, ensure_ascii=False).encode()  # a lone surrogate cannot be written again
    except (ValueError, RecursionError):
        return None
    return row


def _row(file: Path, number: int, found: Any, fields: _Fields, line: bytes = b"") -> Row | BadRow:
    if not isinstance(found, dict):
        return BadRow(file, number, f"not an object with fields but {type(found).__name__}")
    values: dict[str, str] = {}
    for key in fields.keys:
        value = _find(found, key)
        if isinstance(value, bytes):
            try:
                value = value.decode()
            except UnicodeDecodeError as error:
                return BadRow(file, number, f"field {key!r}: {_utf8_fault(error)}")
        if not isinstance(value, str):
            return BadRow(file, number, _no_text(key, value, found))
        values[key] = value
    for key in fields.optional_keys:
        value = _find(found, key)
        if isinstance(value, float):
            value = _number(value, key, line)
        if value is None:
            continue
        if type(value) is int:
            value = str(value)
        if not isinstance(value, str):
            return BadRow(file, number, _no_text(key, value, found))
        values[key] = value
    return Row(file, number, values)


def _find(values: dict[str, Any], key: str) -> Any:
    """What is under `key`, or under `outer.inner` within it; None where there is nothing."""
    value = values.get(key)
    if value is None and "." in key:
        outer, _, inner = key.partition(".")
        within = values.get(outer)
        return _find(within, inner) if isinstance(within, dict) else None
    return value


def _number(value: float, key: str, line: bytes) -> str | None:
    """A number as text, a whole one without a fraction as in the file; None for NaN, which pandas writes for none."""
    if not math.isfinite(value):
        return None
    if not value.is_integer():
        return str(value)
    exact = _find(json.loads(line), key) if line and abs(value) >= _EXACT_BELOW else value
    return str(int(exact))


def _no_text(key: str, value: object, found: dict[str, Any]) -> str:
    if value is not None or key in found:
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
