"""Files of JSON lines that the package writes itself: whole ones, and ones that a kill left incomplete."""

from __future__ import annotations

import gzip
from pathlib import Path

from megatron_ipt.corpus.jsonl import lines_of, read_intact_records, read_records


def test_blank_lines_are_left_out_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(gzip.compress(b"{}\n\n \n[1]"))
    assert list(lines_of(file)) == [(1, b"{}\n"), (4, b"[1]")]
    assert list(read_records(file)) == [{}, [1]]


def test_incomplete_lines_are_skipped_and_later_ones_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"a": 1}\n{"a": 2, "b' + bytes(8) + b'{"a": 3}\n{"a": 4}\n{"a": 5}')
    assert list(read_intact_records(file)) == [{"a": 1}, {"a": 4}]
    assert list(read_intact_records(tmp_path / "none.jsonl")) == []


def test_losses_that_are_not_finite_are_read(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"lm_loss": NaN}\n{"lm_loss": 1.5}\n')
    assert [str(row["lm_loss"]) for row in read_intact_records(file)] == ["nan", "1.5"]
