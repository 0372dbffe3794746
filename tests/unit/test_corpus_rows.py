from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from megatron_ipt.corpus.rows import BadRow, expand_inputs, read_rows
from megatron_ipt.errors import UserError

_ROWS = [{"text": "plain"}, {"text": "", "id": 7}, {"text": "\U0001f600 café\n\u2028\x85", "id": "c"}]
_LINES = "".join(json.dumps(row) + "\n" for row in _ROWS).encode()


def _write(file: Path) -> Path:
    match file.suffix:
        case ".gz":
            file.write_bytes(gzip.compress(_LINES[:30]) + gzip.compress(_LINES[30:]))
        case ".zst":
            file.write_bytes(zstandard.compress(_LINES[:30]) + zstandard.compress(_LINES[30:]))
        case ".parquet":
            pq.write_table(pa.table({"text": [row["text"] for row in _ROWS], "id": [None, "7", "c"]}), file)
        case _:
            file.write_bytes(_LINES)
    return file


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    rows = list(read_rows([_write(tmp_path / name)], ["text"], optional_keys=["id"]))
    assert [row.values.get("text") for row in rows] == [row["text"] for row in _ROWS]
    assert [row.values.get("id") for row in rows] == [None, "7", "c"]
    assert [row.line for row in rows] == [1, 2, 3]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a"', "not valid JSON"),
        (b'{"text": "\xff"}', "not valid UTF-8: byte 0xff at position 11"),
        (b'{"text": "\xed\xa0\x80"}', "not valid UTF-8: byte 0xed"),
        (b'{"text": "\\ud800"}', "surrogate"),
        (b'{"body": "a"}', "no field 'text'; it has 'body'"),
        (b'{"text": 3}', "field 'text' holds int, not text"),
        (b'{"text": null}', "field 'text' holds null, not text"),
        (b'["text"]', "not an object"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, line: bytes, reason: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "first"}\n\n' + line + b'\n{"text": "last"}')
    with pytest.raises(UserError) as caught:
        list(read_rows([file], ["text"]))
    assert caught.value.problems[0].field == f"{file}:3"
    assert reason in caught.value.problems[0].reason

    bad: list[BadRow] = []
    rows = list(read_rows([file], ["text"], "skip", bad.append))
    assert [row.values["text"] for row in rows] == ["first", "last"]
    assert [row.line for row in rows] == [1, 4]
    assert [row.place for row in bad] == [f"{file}:3"]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_cut_off_file_is_reported(tmp_path: Path, name: str) -> None:
    file = _write(tmp_path / name)
    file.write_bytes(file.read_bytes()[:-12])
    with pytest.raises(UserError, match="cannot be read further"):
        list(read_rows([file], ["text"]))
    bad: list[BadRow] = []
    list(read_rows([file], ["text"], "skip", bad.append))
    assert len(bad) == 1


def test_parquet_with_broken_text_loses_only_that_row(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    broken = pa.array([b"good", b"\xff\xfe", None, b"also good"]).view(pa.string())
    pq.write_table(pa.table({"text": broken}), file)
    bad: list[BadRow] = []
    rows = list(read_rows([file], ["text"], "skip", bad.append))
    assert [(row.line, row.values["text"]) for row in rows] == [(1, "good"), (4, "also good")]
    assert [row.line for row in bad] == [2, 3]


def test_parquet_without_the_column_is_an_error_even_when_bad_rows_are_skipped(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column of that name"):
        list(read_rows([_write(tmp_path / "a.parquet")], ["body"], "skip"))


def test_an_unknown_choice_is_an_error_before_reading() -> None:
    with pytest.raises(UserError, match="one of fail, skip"):
        read_rows([], ["text"], "ignore")


def test_inputs_are_sorted_and_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b.jsonl", "a.jsonl", "[x].jsonl"):
        Path(name).touch()
    Path("link.txt").symlink_to("a.jsonl")
    assert expand_inputs(["b.jsonl", "*.jsonl", "./a.jsonl", "link.txt"]) == [
        Path("b.jsonl"),
        Path("[x].jsonl"),
        Path("a.jsonl"),
    ]
    assert expand_inputs(["[x].jsonl"]) == [Path("[x].jsonl")]


def test_every_input_that_is_missing_is_listed(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        expand_inputs([str(tmp_path), str(tmp_path / "none.jsonl"), str(tmp_path / "*.gz")])
    assert [problem.reason for problem in caught.value.problems] == [
        "it is a folder",
        "no such file",
        "the glob matches no file",
    ]
    with pytest.raises(UserError, match="no input file"):
        expand_inputs([])


@pytest.mark.parametrize("ending", ["jsonl.zst", "parquet"])
def test_memory_stays_flat(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"big.{ending}"
    text = "x" * 20_000
    if ending == "parquet":
        pq.write_table(pa.table({"text": [text] * 4_000}), file, row_group_size=500)
    else:
        file.write_bytes(zstandard.compress((json.dumps({"text": text}) + "\n").encode() * 4_000))
    tracemalloc.start()
    characters = sum(len(row.values["text"]) for row in read_rows([file], ["text"]))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert characters == 80_000_000
    assert peak_bytes < 12_000_000
