"""What config.json of a Hugging Face folder says is imported as its transformers class reads it, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from megatron_ipt.config.pretrain import ParallelConfig
from megatron_ipt.conversion.core_model import build_core_model, fill_from_hf
from megatron_ipt.conversion.hf_config import read_model_config, unread_attributes
from megatron_ipt.conversion.hf_weights import HfWeights
from megatron_ipt.conversion.parity import ParityError, check_parity, compare_logits
from megatron_ipt.errors import UserError
from megatron_ipt.parallel.groups import Groups, initialize, shutdown

TOKENS = torch.randint(128, (2, 48), generator=torch.Generator().manual_seed(1))
PLAIN: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "initializer_range": 0.2,
    "rms_norm_eps": 1e-5,
}
IMPORTED: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"sliding_window": 8}),
    ("mistral", {"sliding_window": 8}),
    ("mistral", {"sliding_window": None}),
    ("mistral", {"attention_bias": True}),
    ("mistral", {"mlp_bias": True}),
    ("llama", {"head_dim": 16}),
    ("mistral", {"head_dim": 16}),
    ("llama", {"head_dim": None}),
    ("llama", {"num_key_value_heads": None}),
    ("llama", {"tie_word_embeddings": True}),
    ("mistral", {"tie_word_embeddings": True}),
    ("llama", {"rope_theta": 500.0}),
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    ("llama", {"rope_scaling": {"type": "default", "factor": 8.0}}),
    ("llama", {"rope_scaling": None, "rope_theta": 500}),
    ("llama", {"partial_rotary_factor": 0.5}),
    ("llama", {"original_max_position_embeddings": 16}),
    ("llama", {"rms_norm_eps": 0.1}),
    ("llama", {"attention_dropout": None}),
    ("llama", {"pretraining_tp": 2}),
    ("llama", {"attention_chunk_size": 8}),
    ("llama", {"attn_logit_softcapping": 1.0, "logits_scaling": 3.0, "embedding_multiplier": 2.0}),
    ("mistral", {"sliding_window": 8, "use_sliding_window": False, "max_window_layers": 1}),
    ("llama", {"layer_types": ["full_attention"] * 2}),
]
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"attention_bias": True}, "attention_bias"),
    ("llama", {"mlp_bias": True}, "mlp_bias"),
    ("mistral", {"hidden_act": "gelu"}, "hidden_act"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
    ("mistral", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "rope_scaling"),
    (
        "llama",
        {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
        "rope_scaling",
    ),
    ("llama", {"is_causal": False}, "is_causal"),
    ("mistral", {"sliding_window": 0}, "sliding_window"),
    ("mistral", {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}, "ministral"),
    ("llama", {"sliding_window": 8, "layer_types": ["sliding_attention"] * 2}, "layer_types"),
    ("mistral", {"sliding_window": 8, "per_layer_config": {"0": {"sliding_window": 4}}}, "per_layer_config"),
    ("llama", {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "quantization_config"),
    ("llama", {"hidden_size": 33}, "not a multiple"),
    ("llama", {"rope_scaling": {"rope_type": "linear"}}, "factor"),
    ("llama", {"max_position_embeddings": None}, "max_position_embeddings"),
]


@pytest.fixture(scope="module")
def groups() -> Iterator[Groups]:
    yield initialize(ParallelConfig(), seed=1)
    shutdown()


def write_config(folder: Path, family: str, values: dict[str, Any]) -> Path:
    config = {"model_type": family, "architectures": [f"{family.capitalize()}ForCausalLM"], **PLAIN, **values}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_model(folder: Path, family: str, values: dict[str, Any]) -> Path:
    """A random model as transformers makes it of a config.json that holds `values`."""
    config = AutoConfig.from_pretrained(str(write_config(folder, family, values)))
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(str(folder))
    return write_config(folder, family, values)


@pytest.mark.parametrize(("family", "values"), IMPORTED, ids=str)
def test_imported_as_transformers_reads_it(family: str, values: dict[str, Any], tmp_path: Path, groups: Groups) -> None:
    folder = write_model(tmp_path, family, values)
    core = build_core_model(read_model_config(folder), groups, bf16=False, seq_length=TOKENS.shape[1])
    fill_from_hf(core, HfWeights(folder))
    parity = compare_logits(core, folder, TOKENS, 1e-4)
    assert parity.passed, parity
    assert parity.largest_abs_logit > 1


@pytest.mark.parametrize(("family", "values", "named"), REFUSED, ids=str)
def test_refused_by_name(family: str, values: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=named):
        read_model_config(write_config(tmp_path, family, values))


def test_what_the_class_does_not_read_is_reported(tmp_path: Path) -> None:
    stray = {"sliding_window": 600, "attention_bias": False}
    assert unread_attributes(write_config(tmp_path, "llama", stray)) == {"sliding_window": 600}
    assert unread_attributes(write_config(tmp_path, "mistral", stray)) == {}


def test_head_that_is_not_the_embedding_it_is_said_to_be(tmp_path: Path, groups: Groups) -> None:
    folder = write_model(tmp_path, "llama", {})
    write_config(folder, "llama", {"tie_word_embeddings": True})
    core = build_core_model(read_model_config(folder), groups, bf16=False, seq_length=8)
    with pytest.raises(UserError, match="tie_word_embeddings"):
        fill_from_hf(core, HfWeights(folder))


def test_window_beyond_the_texts_is_compared(tmp_path: Path, groups: Groups) -> None:
    """A checkpoint whose tokens see one token more than the export says; no sequence of 48 tokens shows it."""
    folder = write_model(tmp_path, "mistral", {"sliding_window": 600})
    right = read_model_config(folder)
    parities = []
    for model, outcome in (
        (right, nullcontext()),
        (right.model_copy(update={"sliding_window": 601}), pytest.raises(ParityError)),
    ):
        core = build_core_model(model, groups, bf16=False, seq_length=TOKENS.shape[1])
        fill_from_hf(core, HfWeights(folder))
        with outcome:
            check_parity(core, folder, TOKENS, groups, 1e-4, tmp_path)
        parities.append(json.loads((tmp_path / "parity.json").read_text()))
    assert [parity["passed"] for parity in parities] == [True, False]
    assert all(parity["max_abs_logit_difference"] < 1e-4 for parity in parities)
    assert all(parity["twins"]["tokens_compared"] >= 2 * 750 for parity in parities)
    assert parities[0]["twins"]["max_abs_logit_difference"] < 1e-3
    assert parities[1]["twins"]["max_abs_logit_difference"] > 0.5


def test_what_is_too_long_to_compare_is_named(tmp_path: Path, groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megatron_ipt.conversion.twin.MAX_TOKENS", 64)
    folder = write_model(tmp_path, "mistral", {"sliding_window": 70})
    core = build_core_model(read_model_config(folder), groups, bf16=False, seq_length=TOKENS.shape[1])
    fill_from_hf(core, HfWeights(folder))
    check_parity(core, folder, TOKENS, groups, 1e-4, tmp_path)
    found = json.loads((tmp_path / "parity.json").read_text())["not_compared"]
    assert found == ["logits at positions from 64 to 96"]
