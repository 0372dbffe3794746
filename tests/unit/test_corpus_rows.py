from __future__ import annotations

import bz2
import gzip
import json
import lzma
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from megatron_ipt.corpus.file_names import name_files
from megatron_ipt.corpus.rows import BadRow, expand_inputs, read_objects, read_rows
from megatron_ipt.errors import UserError

_ROWS = [{"text": "plain"}, {"text": "", "id": 7}, {"text": "\U0001f600 café\n\u2028\x85", "id": "c"}]
_LINES = "".join(json.dumps(row) + "\n" for row in _ROWS).encode()


_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
_PACKED = ["a.jsonl.gz", "a.jsonl.zst", "a.jsonl.bz2", "a.jsonl.xz"]


def _write(file: Path) -> Path:
    """Write the rows, as two compressed streams if the format allows it."""
    ending = file.suffix.lower()
    if ending == ".parquet":
        pq.write_table(pa.table({"text": [row["text"] for row in _ROWS], "id": [None, "7", "c"]}), file)
    else:
        compress = _COMPRESS.get(ending, lambda content: content)
        file.write_bytes(compress(_LINES[:30]) + compress(_LINES[30:]))
    return file


@pytest.mark.parametrize("name", ["a.jsonl", *_PACKED, "a.parquet", "A.JSONL.GZ", "A.Parquet"])
def test_every_file_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    rows = list(read_rows([_write(tmp_path / name)], ["text"], optional_keys=["id"]))
    assert [row.values.get("text") for row in rows] == [row["text"] for row in _ROWS]
    assert [row.values.get("id") for row in rows] == [None, "7", "c"]
    assert [row.line for row in rows] == [1, 2, 3]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.xz"])
def test_zero_bytes_after_a_compressed_stream_are_padding(tmp_path: Path, name: str) -> None:
    file = _write(tmp_path / name)
    file.write_bytes(file.read_bytes() + bytes(1_000_000))
    assert len(list(read_rows([file], ["text"]))) == len(_ROWS)


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_byte_order_mark_is_not_part_of_the_first_row(tmp_path: Path, start: bytes) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(start + _LINES)
    assert [row.values["text"] for row in read_rows([file], ["text"])] == [row["text"] for row in _ROWS]


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999", '"\\ud800"', "1" * 400])
def test_unread_fields_are_not_checked(tmp_path: Path, value: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(f'{{"text": "caf\\u00e9", "score": {value}}}\n')
    assert [row.values for row in read_rows([file], ["text"])] == [{"text": "café"}]


def test_object_with_nan_is_read_and_one_with_a_lone_surrogate_is_bad(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": Infinity}\n{"a": ["\\ud800"]}\n')
    bad: list[BadRow] = []
    assert [row.values for row in read_objects([file], "skip", bad.append)] == [{"a": float("inf")}]
    assert [row.line for row in bad] == [2]


def test_numbers_of_any_size_are_valid_ids(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    values = ["7", "12.0", "123456789012345678901234567890", "123456789012345678901234567891", "2.5", "NaN", "null"]
    file.write_text("".join(f'{{"text": "t", "id": {value}}}\n' for value in values))
    ids = [row.values.get("id") for row in read_rows([file], ["text"], optional_keys=["id"])]
    assert ids == ["7", "12", values[2], values[3], "2.5", None, None]
    table = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["t", "t"], "id": pa.array([12.0, float("nan")])}), table)
    assert [row.values.get("id") for row in read_rows([table], ["text"], optional_keys=["id"])] == ["12", None]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_nested_field_is_named_with_a_dot(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    objects = [{"meta": {"text": "inner", "id": 1}}, {"meta": None}]
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(objects), file)
    else:
        objects.append({"meta.text": "plain", "meta": {"text": "inner"}})
        file.write_text("".join(json.dumps(one) + "\n" for one in objects))
    bad: list[BadRow] = []
    rows = list(read_rows([file], ["meta.text"], "skip", bad.append, ["meta.id"]))
    assert rows[0].values == {"meta.text": "inner", "meta.id": "1"}
    assert [row.values["meta.text"] for row in rows[1:]] == ["plain"] * (len(objects) - 2)
    assert [row.line for row in bad] == [2]


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
def test_bad_row_is_reported_with_file_and_line(tmp_path: Path, line: bytes, reason: str) -> None:
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
    assert [row.location for row in bad] == [f"{file}:3"]


@pytest.mark.parametrize("bad_input", ["fail", "skip"])
@pytest.mark.parametrize("name", [*_PACKED, "a.parquet"])
def test_truncated_file_is_an_error_even_if_bad_rows_are_skipped(tmp_path: Path, name: str, bad_input: str) -> None:
    file = _write(tmp_path / name)
    file.write_bytes(file.read_bytes()[:-12])
    for rows in (read_rows([file], ["text"], bad_input), read_objects([file], bad_input)):
        with pytest.raises(UserError, match="cannot be read beyond row") as caught:
            list(rows)
        assert caught.value.problems[0].field == str(file)


@pytest.mark.parametrize("name", _PACKED)
def test_damage_in_a_later_stream_is_reported_after_the_rows_before_it(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    first, second = (_COMPRESS[file.suffix](_LINES) for _ in range(2))
    file.write_bytes(first + b"\xff" + second[1:])
    rows = read_rows([file], ["text"], "skip")
    if not name.endswith("zst"):  # it is decompressed in blocks that include the damage
        assert [next(rows).values["text"] for _ in _ROWS] == [row["text"] for row in _ROWS]
    with pytest.raises(UserError, match="cannot be read beyond row"):
        list(rows)


def test_damaged_row_group_is_an_error_with_the_last_readable_row(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"text": [f"text {n}" for n in range(200)]}), file, row_group_size=100, use_dictionary=False
    )
    start = pq.ParquetFile(file).metadata.row_group(1).column(0).data_page_offset
    content = bytearray(file.read_bytes())
    content[start : start + 40] = bytes(40)
    file.write_bytes(content)
    for rows in (read_rows([file], ["text"], "skip"), read_objects([file], "skip")):
        with pytest.raises(UserError, match="cannot be read beyond row 100"):
            list(rows)


@pytest.mark.parametrize("name", _PACKED)
def test_empty_file_is_not_a_valid_compressed_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(UserError, match="cannot be read beyond row 0"):
        list(read_rows([tmp_path / name], ["text"], "skip"))
    assert list(read_rows([_touched(tmp_path / "a.jsonl")], ["text"], "skip")) == []


def _touched(file: Path) -> Path:
    file.touch()
    return file


def test_file_of_only_bad_rows_is_an_error_even_if_they_are_skipped(tmp_path: Path) -> None:
    good, wrong = _write(tmp_path / "a.jsonl"), tmp_path / "b.jsonl"
    wrong.write_text('{"body": "x"}\n\nnot json\n')
    bad: list[BadRow] = []
    with pytest.raises(UserError, match="none of its rows can be read") as caught:
        list(read_rows([good, wrong], ["text"], "skip", bad.append))
    assert (caught.value.problems[0].field, caught.value.problems[0].value) == (str(wrong), "2 bad rows")
    assert [row.line for row in bad] == [1, 3]


def test_invalid_utf8_in_parquet_objects_loses_only_that_row(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    broken = pa.array([b"good", b"\xff\xfe", b"also good"]).view(pa.string())
    pq.write_table(pa.table({"text": broken}), file)
    bad: list[BadRow] = []
    assert [row.line for row in read_objects([file], "skip", bad.append)] == [1, 3]
    assert [row.line for row in bad] == [2]


def test_files_with_the_same_name_are_distinguished_by_their_folders() -> None:
    files = [Path(name) for name in ("x/a/1.jsonl", "x/b/1.jsonl", "y/b/1.jsonl", "y/b/2.jsonl")]
    assert list(name_files(files).values()) == ["a/1.jsonl", "x/b/1.jsonl", "y/b/1.jsonl", "2.jsonl"]


def test_invalid_utf8_in_parquet_loses_only_that_row(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    broken = pa.array([b"good", b"\xff\xfe", None, b"also good"]).view(pa.string())
    pq.write_table(pa.table({"text": broken}), file)
    bad: list[BadRow] = []
    rows = list(read_rows([file], ["text"], "skip", bad.append))
    assert [(row.line, row.values["text"]) for row in rows] == [(1, "good"), (4, "also good")]
    assert [row.line for row in bad] == [2, 3]


def test_parquet_without_the_column_is_an_error_even_if_bad_rows_are_skipped(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column of that name"):
        list(read_rows([_write(tmp_path / "a.parquet")], ["body"], "skip"))


def test_inputs_are_sorted_and_deduplicated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_all_missing_inputs_are_listed(tmp_path: Path) -> None:
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
def test_memory_does_not_grow_with_the_file(tmp_path: Path, ending: str) -> None:
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
