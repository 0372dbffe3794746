"""A tokenizer is loaded by transformers once, and again after a change of its files or of the code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_tokenizers import write_gpt2_like

from megatron_ipt.tokenization.tokenizer_cache import load_cached
from megatron_ipt.tokenization.transformers_tokenizer import load_tokenizer


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "megatron_ipt" / "tokenizers"


def load_in_turn(folder: Path, code: list[Path], answers: list[bytes]) -> bytes:
    return load_cached(folder, code, lambda: answers.pop(0))


@pytest.mark.slow
def test_second_load_reads_the_cache(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_gpt2_like(tmp_path / "tokenizer")
    first = load_tokenizer(folder)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr("sys.executable", "/bin/false")  # the process that imports transformers
    assert load_tokenizer(folder) == first


def test_key_covers_files_and_code(cache: Path, tmp_path: Path) -> None:
    folder, code = write_gpt2_like(tmp_path / "tokenizer"), tmp_path / "code.py"
    code.write_text("1")
    answers = [b"first", b"other config", b"other code"]
    assert load_in_turn(folder, [code], answers) == load_in_turn(folder, [code], answers) == b"first"
    (folder / "config.json").write_text(json.dumps({"model_type": "mistral"}))
    assert load_in_turn(folder, [code], answers) == b"other config"
    (folder / "model.safetensors").write_bytes(b"weights")
    assert load_in_turn(folder, [code], answers) == b"other config"
    code.write_text("2")
    assert load_in_turn(folder, [code], answers) == b"other code"


def test_cache_that_cannot_be_written_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    folder = write_gpt2_like(tmp_path / "tokenizer")
    assert load_cached(folder, [], lambda: b"loaded") == b"loaded"
