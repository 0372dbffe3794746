"""Exports of every kind of tokenizer, read by the last transformers 4 and by ours: the same ids and model, BOS first.

`make test-transformers4` makes the other environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_exports import write_export
from small_tokenizers import (
    write_gpt2_like,
    write_llama_3_like,
    write_published_mistral_like,
    write_qwen_like,
    write_unigram,
)

from megatron_ipt.config.pretrain import ParallelConfig
from megatron_ipt.parallel.groups import Groups, initialize, shutdown
from megatron_ipt.tokenization.parity_text import PARITY_TEXTS
from megatron_ipt.tokenization.transformers_tokenizer import write_sentencepiece_folder

CHECKOUT = Path(__file__).resolve().parents[2]
INTERPRETERS = {"4": CHECKOUT / ".venv-transformers4" / "bin" / "python", "5": Path(sys.executable)}
TEXTS = [
    *PARITY_TEXTS,
    *("", " ", "  two", "trail ", "\n\ta\r\n", "<s>a</s> <unk>", "<|end_of_text|>b", "<CON> x </CON>\n\n<QUE> y <ANS>"),
    *("é e\u0301 ﷺ", "日本語 😀👩‍👩‍👧", "\x00\x7f\u200b\ufeff▁", "1234567890 3.14", "don't", "def f(x):\n    return x"),
]
SMALL = {
    "gpt2_like": write_gpt2_like,
    "llama_3_like": write_llama_3_like,
    "published_mistral_like": write_published_mistral_like,
    "unigram": write_unigram,
    "qwen_like": write_qwen_like,
}
NAMES = [*SMALL, "smollm2", "quickstart", "sentencepiece"]
YARN = {"rope_type": "yarn", "rope_factor": 4.0, "rope_original_max_position_embeddings": 8}
LLAMA3 = {"rope_type": "llama3", "rope_factor": 8.0, "rope_original_max_position_embeddings": 16}
SHAPES: list[dict[str, Any]] = [
    {"family": "mistral", "sliding_window": 16},
    {"family": "llama", **LLAMA3},
    {"family": "qwen3", "sliding_window": 16},
    {"family": "smollm3", "no_rope_freq": 2, **YARN},
    {"family": "qwen2", **YARN, "rope_attention_factor": 1.3},  # only with a tokenizer like Qwen's
    {"family": "llama", "rope_type": "linear", "rope_factor": 2.0},
    {"family": "olmo2"},
    {"family": "mistral", **YARN},
]


@pytest.fixture(scope="module")
def groups() -> Any:
    yield initialize(ParallelConfig(), seed=1)
    shutdown()


@pytest.fixture(scope="module")
def folders(
    groups: Groups, quickstart_inputs: Path, sentencepiece_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """An export of each tokenizer, with a small model beside it, of each family in turns."""
    sources = tmp_path_factory.mktemp("sources")
    for name, write in SMALL.items():
        write(sources / name)
    write_sentencepiece_folder(sentencepiece_file, sources / "sentencepiece")
    sources_by_name = {name: sources / name for name in (*SMALL, "sentencepiece")}
    sources_by_name |= {"smollm2": quickstart_inputs / "smollm2", "quickstart": quickstart_inputs / "tokenizer"}
    exports = tmp_path_factory.mktemp("exports")
    for number, name in enumerate(NAMES):
        write_export(sources_by_name[name], exports / name, SHAPES[number % len(SHAPES)], groups)
    return {name: exports / name for name in NAMES}


@pytest.fixture(scope="module")
def read(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, Any]]]:
    """What each version makes of each export."""
    texts = tmp_path_factory.mktemp("texts") / "texts.json"
    texts.write_text(json.dumps(TEXTS), encoding="utf-8")
    found = {}
    for major, interpreter in INTERPRETERS.items():
        command = [interpreter, Path(__file__).parent / "read_exports.py", texts, *folders.values()]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        result = json.loads(done.stdout)
        assert result["version"].split(".")[0] == major
        found[major] = {name: result["folders"][str(folder)] for name, folder in folders.items()}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_both_versions_read_the_same_tokenizer(name: str, read: dict[str, dict[str, dict[str, Any]]]) -> None:
    four, five = ({**read[major][name], "logits": None} for major in ("4", "5"))
    assert four == five


@pytest.mark.parametrize("name", [name for name in NAMES if name != "qwen_like"])
def test_bos_is_first_and_put_once(name: str, read: dict[str, dict[str, dict[str, Any]]]) -> None:
    for major, by_name in read.items():
        found = by_name[name]
        bos_id = found["model"][2]
        assert all(ids[0] == bos_id for ids in found["ids"]), major
        assert all(ids[0] == bos_id and ids.count(bos_id) == 1 for ids in found["as_text"]), major
        assert found["as_lm_eval"][0] == bos_id and found["as_lm_eval"].count(bos_id) == 1, major


@pytest.mark.parametrize("name", NAMES)
def test_both_versions_load_the_same_model(name: str, read: dict[str, dict[str, dict[str, Any]]]) -> None:
    four, five = (torch.tensor(read[major][name]["logits"]) for major in ("4", "5"))
    assert (four - five).abs().max() < 1e-5
