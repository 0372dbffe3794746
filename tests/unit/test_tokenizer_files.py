"""Which files of a folder make up its tokenizer, for every stage that reads one."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_ipt.errors import UserError
from megatron_ipt.tokenization.tokenizer_files import find_tokenizer_files, require_tokenizer_files


def test_chat_template_belongs_to_the_tokenizer_but_decides_no_ids(tmp_path: Path) -> None:
    for name in ("config.json", "chat_template.jinja", "tokenizer_config.json", "tokenizer.json"):
        (tmp_path / name).touch()
    ids = ["tokenizer.json", "tokenizer_config.json"]
    assert [file.name for file in find_tokenizer_files(tmp_path)] == ids
    assert [file.name for file in require_tokenizer_files(tmp_path)] == [*ids, "chat_template.jinja"]


def test_settings_without_a_vocabulary_are_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").touch()
    assert find_tokenizer_files(tmp_path)
    with pytest.raises(UserError, match="it holds no tokenizer"):
        require_tokenizer_files(tmp_path)
