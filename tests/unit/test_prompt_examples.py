"""The file of examples that prompts show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_ipt.errors import UserError
from megatron_ipt.pairs.grammar import Example, Pair
from megatron_ipt.pairs.prompts import read_examples


def test_examples_are_read_from_jsonl(tmp_path: Path) -> None:
    file = tmp_path / "examples.jsonl"
    rows = [{"context": "One.", "pairs": [{"Q": "a?", "A": "b"}, {"Q": "c?", "A": "d"}]}, {"context": "2", "pairs": []}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert read_examples(file) == [Example("One.", (Pair("a?", "b"), Pair("c?", "d"))), Example("2", ())]
    assert read_examples(None) == []
    with pytest.raises(UserError, match="no such file"):
        read_examples(tmp_path / "absent.jsonl")
    file.write_text('{"context": "One.", "pairs": []}\n{"context": "Two.", "pairs": [{"Q": "a?"}]}\n', encoding="utf-8")
    with pytest.raises(UserError, match="not an example") as caught:
        read_examples(file)
    assert (caught.value.problems[0].field, caught.value.problems[0].value) == (f"{file}:2", "context, pairs")
