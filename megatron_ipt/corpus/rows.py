"""Rows of JSONL (.gz, .zst, .bz2, .xz) and parquet files, streamed; unreadable rows are reported, never dropped.

Other readers log a broken row without its location and continue, or end a file at its first invalid byte. Here, a
broken row may be skipped; a damaged file may not, because the number of rows after the damage is unknown.
"""

from __future__ import annotations

import codecs
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import has_magic
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import orjson

from megatron_ipt.corpus.compression import READ_ERRORS, file_extension
from megatron_ipt.corpus.jsonl import lines_of
from megatron_ipt.corpus.parquet_rows import read_columns
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.system_errors import explain

GoodRow = TypeVar("GoodRow", "Row", "ObjectRow")

_EXACT_BELOW = 2.0**53  # floats represent every whole number below this exactly


@dataclass(frozen=True, slots=True)
class Row:
    """The requested values of one row; `line` counts from 1 (for parquet: the row number)."""

    file: Path
    line: int
    values: dict[str, str]


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """A whole row, with fields of any type; `line` counts from 1 (for parquet: the row number)."""

    file: Path
    line: int
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be read, and the reason."""

    file: Path
    line: int
    reason: str

    @property
    def location(self) -> str:
        """FILE:LINE."""
        return f"{self.file}:{self.line}"


def expand_inputs(patterns: Sequence[str]) -> list[Path]:
    """Resolve paths and globs to files: in the order given, each glob sorted, each file once.

    Raises:
        UserError: lists every path that is no file and every glob that matches nothing.
    """
    problems: list[Problem] = []
    files: dict[str, Path] = {}
    for pattern in patterns:
        found = _matching_files(pattern)
        if not found:
            problems.append(_missing_input(pattern))
        for file in found:
            files.setdefault(os.path.realpath(file), file)
    if not patterns:
        problems.append(Problem("input", "[]", "no input file is given", "give at least one file or glob"))
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
    """Stream the rows of `files` with the text under each of `keys`; `outer.inner` selects a field of a nested object.

    A row is bad if it is not valid UTF-8 or JSON, is not an object, or has no text under one of `keys`. Other fields
    are not checked: NaN, infinities and lone surrogates are accepted there. Under `optional_keys`, a number counts as
    text, and an absent, null or NaN value is left out of `Row.values`. Blank lines are ignored.

    Args:
        files: the files, read in this order.
        keys: fields that must hold text in every row.
        bad_input: `fail`, or `skip` to pass each bad row to `report` and continue.
        report: called with each bad row that is skipped.
        optional_keys: fields that a row may have.

    Raises:
        UserError: under `fail`, for a bad row, at FILE:LINE; under `skip`, for a file without a single good row. Under
            both, for a file whose remainder cannot be read, and for a parquet file without the column.
    """
    fields = _Fields(tuple(keys), tuple(optional_keys))
    return chain.from_iterable(_filter_bad(file, _rows_of(file, fields), bad_input, report) for file in files)


def read_objects(
    files: Sequence[Path], bad_input: str | None = None, report: Callable[[BadRow], None] = lambda bad: None
) -> Iterator[ObjectRow]:
    """Stream whole rows of `files`; a row is bad if it is not valid UTF-8 or JSON, or not an object.

    Args:
        files: the files, read in this order.
        bad_input: as for `read_rows`; None fails, for a stage that has no such setting.
        report: called with each bad row that is skipped.

    Raises:
        UserError: as for `read_rows`.
    """
    return chain.from_iterable(_filter_bad(file, _objects_of(file), bad_input, report) for file in files)


def refuse_or_report(bad: BadRow, bad_input: str | None, report: Callable[[BadRow], None], remedy: str) -> None:
    """Pass a bad row to `report` under `skip`; raise it otherwise.

    Args:
        bad: the row.
        bad_input: as for `read_rows`; None fails, for a stage that has no such setting.
        report: called with the row if it is skipped.
        remedy: the alternative to skipping the row.

    Raises:
        UserError: the row is not to be skipped; the error names FILE:LINE.
    """
    if bad_input == "skip":
        report(bad)
        return
    skipping = "" if bad_input is None else ", or skip such rows: bad_input=skip"
    raise UserError(bad.location, "(bad row)", bad.reason, f"{remedy}{skipping}")


def _filter_bad(
    file: Path, rows: Iterable[GoodRow | BadRow], bad_input: str | None, report: Callable[[BadRow], None]
) -> Iterator[GoodRow]:
    """Yield the good rows of a file; report or raise the bad ones."""
    any_good, bad_rows, number = False, 0, 0
    try:
        for row in rows:
            number = row.line
            if not isinstance(row, BadRow):
                any_good = True
                yield row
            else:
                bad_rows += 1
                refuse_or_report(row, bad_input, report, "fix the row")
    except READ_ERRORS as error:
        if (failure := explain(error, default_path=file)) is not None:
            raise failure from error
        reason = f"it cannot be read beyond row {number:,}: {' '.join(str(error).split()) or type(error).__name__}"
        remedy = "copy or download the file again, or leave it out of the input"
        remedy += "; bad_input=skip applies to single rows only" if bad_input == "skip" else ""
        raise UserError(str(file), "(damaged)", reason, remedy) from error
    if bad_rows and not any_good:
        raise UserError(
            str(file),
            f"{bad_rows:,} bad rows",
            "none of its rows can be read; see the reasons above",
            "check its format and the field names, or leave it out of the input",
        )


@dataclass(frozen=True)
class _Fields:
    """The fields of a row that are read."""

    keys: tuple[str, ...]
    optional_keys: tuple[str, ...]


def _rows_of(file: Path, fields: _Fields) -> Iterator[Row | BadRow]:
    if file_extension(file) == ".parquet":
        found = read_columns(file, fields.keys, fields.optional_keys)
        return _read_parquet(file, found, lambda number, values: _row(file, number, values, fields))
    return _read_jsonl(file, lambda number, found, line: _row(file, number, found, fields, line))


def _objects_of(file: Path) -> Iterator[ObjectRow | BadRow]:
    if file_extension(file) == ".parquet":
        return _read_parquet(file, read_columns(file), lambda number, values: ObjectRow(file, number, values))
    return _read_jsonl(file, lambda number, found, _: _object(file, number, found))


def _read_parquet(
    file: Path,
    rows: Iterable[dict[str, object] | UnicodeDecodeError],
    make: Callable[[int, dict[str, object]], GoodRow | BadRow],
) -> Iterator[GoodRow | BadRow]:
    for number, row in enumerate(rows, start=1):
        yield (
            BadRow(file, number, _describe_utf8_error(row))
            if isinstance(row, UnicodeDecodeError)
            else make(number, row)
        )


def _object(file: Path, number: int, found: object) -> ObjectRow | BadRow:
    if not isinstance(found, dict):
        return BadRow(file, number, f"not an object with fields but {type(found).__name__}")
    return ObjectRow(file, number, found)


def _read_jsonl(file: Path, make: Callable[[int, object, bytes], GoodRow | BadRow]) -> Iterator[GoodRow | BadRow]:
    for number, line in lines_of(file):
        try:
            yield make(number, orjson.loads(line), line)
        except orjson.JSONDecodeError as error:
            line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield _read_leniently(file, number, line, make) or BadRow(
                    file, number, _describe_json_error(line, error)
                )


def _read_leniently(
    file: Path, number: int, line: bytes, make: Callable[[int, object, bytes], GoodRow | BadRow]
) -> GoodRow | BadRow | None:
    """Parse a line that orjson rejects, if the fault is in no field that is read; None otherwise.

    orjson (3.x) rejects NaN, infinities, lone surrogates and deep nesting, which the standard library accepts.
    """
    try:
        row = make(number, json.loads(line.decode()), line)
        if not isinstance(row, BadRow):
            json.dumps(row.values, ensure_ascii=False).encode()  # a lone surrogate cannot be written again
    except (ValueError, RecursionError):
        return None
    return row


def _row(file: Path, number: int, found: object, fields: _Fields, line: bytes = b"") -> Row | BadRow:
    if not isinstance(found, dict):
        return BadRow(file, number, f"not an object with fields but {type(found).__name__}")
    values: dict[str, str] = {}
    for key in fields.keys:
        value = _find(found, key)
        if isinstance(value, bytes):
            try:
                value = value.decode()
            except UnicodeDecodeError as error:
                return BadRow(file, number, f"field {key!r}: {_describe_utf8_error(error)}")
        if not isinstance(value, str):
            return BadRow(file, number, _describe_missing_text(key, value, found))
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
            return BadRow(file, number, _describe_missing_text(key, value, found))
        values[key] = value
    return Row(file, number, values)


def _find(values: Mapping[str, object], key: str) -> object:
    """Return the value under `key`, or under `outer.inner` in a nested object; None if there is none."""
    value = values.get(key)
    if value is None and "." in key:
        outer, _, inner = key.partition(".")
        nested = values.get(outer)
        return _find(nested, inner) if isinstance(nested, dict) else None
    return value


def _number(value: float, key: str, line: bytes) -> str | None:
    """Format a number as text; None for NaN and infinities, as pandas writes NaN for a missing value.

    A whole number gets no fraction. One beyond 64 bits is parsed again from `line`, since orjson rounds it to a float.
    """
    if not math.isfinite(value):
        return None
    if not value.is_integer():
        return str(value)
    exact = _find(json.loads(line), key) if line and abs(value) >= _EXACT_BELOW else value
    assert isinstance(exact, int | float)
    return str(int(exact))


def _describe_missing_text(key: str, value: object, found: Mapping[str, object]) -> str:
    if value is not None or key in found:
        return f"field {key!r} holds {'null' if value is None else type(value).__name__}, not text"
    return f"no field {key!r}; it has {', '.join(map(repr, found)) or 'none'}"


def _describe_json_error(line: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        line.decode()
    except UnicodeDecodeError as utf8_error:
        return _describe_utf8_error(utf8_error)
    return f"not valid JSON: {error}"


def _describe_utf8_error(error: UnicodeDecodeError) -> str:
    return f"not valid UTF-8: byte 0x{error.object[error.start]:02x} at position {error.start + 1}"


def _matching_files(pattern: str) -> list[Path]:
    path = Path(pattern)
    if path.is_file():
        return [path]
    if not has_magic(pattern):
        return []
    matches = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    return sorted(match for match in matches if match.is_file() and not match.name.startswith("."))


def _missing_input(pattern: str) -> Problem:
    if Path(pattern).is_dir():
        return Problem("input", pattern, "it is a folder", f"give its files: {Path(pattern) / '*.jsonl'}")
    if has_magic(pattern):
        return Problem("input", pattern, "the glob matches no file", "check the pattern, and quote it in the shell")
    return Problem("input", pattern, "no such file", "check the path, or run the stage that makes it")
