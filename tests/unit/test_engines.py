"""Engines are found by name, also those of other packages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from installed_packages import install_from_guide
from small_tokenizers import write_gpt2_like

from megatron_ipt.config.loading import config_from
from megatron_ipt.config.settings import known_keys
from megatron_ipt.config.synthesis import EngineConfig, SynthesizeConfig
from megatron_ipt.errors import UserError
from megatron_ipt.lm.loading import load_engine, load_tokenizer_of
from megatron_ipt.synthesis.pipeline import synthesize


def test_engine_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine of the guide writes a corpus."""
    site, raw = tmp_path / "site-packages", tmp_path / "raw.jsonl"
    name = install_from_guide(site, "synthesis.md", "megatron_ipt.engines")
    raw.write_text("".join(json.dumps({"text": f"{word} falls on the roof."}) + "\n" for word in ("Rain", "Snow")))
    model = write_gpt2_like(tmp_path / "model")
    given = {"input": [str(raw)], "output": str(tmp_path / "out"), "engine": {"kind": name, "model": str(model)}}
    with pytest.raises(UserError, match=f"engine.kind = {name}\n.*not one of transformers, vllm, endpoint\n"):
        config_from(SynthesizeConfig, given)
    monkeypatch.syspath_prepend(str(site))
    counts = synthesize(config_from(SynthesizeConfig, given))
    assert counts is not None
    assert counts["pairs"] == 2
    rows = map(json.loads, (tmp_path / "out" / "pairs-00000.jsonl").read_text(encoding="utf-8").splitlines())
    assert [pair["answer"] for row in rows for pair in row["pairs"]] == ["Rain", "Snow"]
    assert known_keys(EngineConfig)["kind"].values == f"transformers, vllm, endpoint, {name}"


def test_a_model_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = EngineConfig(model=str(tmp_path / "absent"), tokenizer=str(write_gpt2_like(tmp_path / "tokenizer")))
    with pytest.raises(UserError, match=r"engine\.model = .*absent\n.*no such folder"):
        load_engine(config, load_tokenizer_of(config))
