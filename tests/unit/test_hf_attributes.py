"""What config.json of a Hugging Face folder says is imported as its transformers class reads it, or refused by name."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from megatron_ipt.conversion.core_model import build_core_model, fill_from_hf, hf_tensors
from megatron_ipt.conversion.hf_config import read_model_config, unread_attributes, write_hf_config
from megatron_ipt.conversion.hf_shards import write_weights
from megatron_ipt.conversion.hf_weights import HfWeights
from megatron_ipt.conversion.parity import ParityError, check_parity, compare_logits
from megatron_ipt.errors import UserError
from megatron_ipt.parallel.groups import Groups

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
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
"""Tokens are more than twice as many as the original maximum."""
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
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    ("llama", {"rope_scaling": LLAMA3, "rope_theta": 500000.0}),
    ("llama", {"rope_scaling": LLAMA3 | {"factor": 32.0, "low_freq_factor": 2.0, "high_freq_factor": 8.0}}),
    ("llama", {"rope_parameters": LLAMA3 | {"rope_theta": 500.0}, "head_dim": 32}),
    ("mistral", {"sliding_window": 8, "rope_scaling": YARN}),
    ("llama", {"rope_scaling": YARN | {"attention_factor": 1.5, "beta_fast": 8.0, "beta_slow": 2.0}}),
    ("llama", {"rope_scaling": YARN | {"attention_factor": 1.0, "truncate": False}}),
    ("llama", {"rope_scaling": YARN | {"mscale": 2.0, "mscale_all_dim": 0.5}}),
    ("llama", {"rope_scaling": {"type": "yarn", "factor": 2.0}}),
    ("qwen2", {}),
    ("qwen2", {"tie_word_embeddings": True, "sliding_window": 8}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}),
    ("qwen2", {"rope_scaling": YARN, "attention_bias": False}),
    ("qwen3", {"head_dim": 16}),
    ("qwen3", {"tie_word_embeddings": True, "rope_scaling": YARN}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}),
    ("smollm3", {"no_rope_layer_interval": 2, "rope_scaling": YARN}),
    ("smollm3", {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 0, 1]}),
    ("smollm3", {"no_rope_layers": [1, 1, 1], "tie_word_embeddings": False}),
    ("smollm3", {"no_rope_layers": [0, 0]}),
    ("olmo2", {}),
    ("olmo2", {"num_key_value_heads": None, "tie_word_embeddings": True, "rope_theta": 500.0}),
    ("olmo2", {"head_dim": 16, "rms_norm_eps": 0.1, "sliding_window": 8}),
]
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"attention_bias": True}, "attention_bias"),
    ("llama", {"mlp_bias": True}, "mlp_bias"),
    ("mistral", {"hidden_act": "gelu"}, "hidden_act"),
    ("llama", {"rope_scaling": LLAMA3, "partial_rotary_factor": 0.5}, "rope_scaling"),
    ("llama", {"rope_scaling": YARN | {"factor": 1.0, "attention_factor": 2.0}}, "rope_scaling"),
    ("mistral", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "rope_scaling"),
    ("qwen2", {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}}, "rope_scaling"),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "layer_types"),
    ("qwen3", {"attention_bias": True}, "attention_bias"),
    ("smollm3", {"mlp_bias": True}, "mlp_bias"),
    ("smollm3", {"num_hidden_layers": 4, "no_rope_layers": [0, 1, 1, 0]}, "no_rope_layers"),
    ("smollm3", {"use_sliding_window": True, "sliding_window": 8, "no_rope_layer_interval": 1}, "layer_types"),
    ("olmo2", {"attention_bias": True}, "attention_bias"),
    ("olmo2", {"rope_scaling": YARN}, "rope_scaling"),
    ("olmo2", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
    ("olmo3", {}, "GPTModel cannot express it"),
    ("gemma2", {}, "GPTModel cannot express it"),
    ("llama", {"is_causal": False}, "is_causal"),
    ("mistral", {"sliding_window": 0}, "sliding_window"),
    ("mistral", {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}, "ministral"),
    ("llama", {"sliding_window": 8, "layer_types": ["sliding_attention"] * 2}, "layer_types"),
    ("mistral", {"sliding_window": 8, "per_layer_config": {"0": {"sliding_window": 4}}}, "per_layer_config"),
    ("llama", {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "quantization_config"),
    ("llama", {"hidden_size": 33}, "not a multiple"),
    ("mistral", {"num_hidden_layers": 0}, "as num_layers = 0"),
    ("mistral", {"num_attention_heads": 0, "head_dim": 8}, "as num_attention_heads = 0"),
    ("mistral", {"vocab_size": -5}, "as vocab_size = -5"),
    ("mistral", {"num_attention_heads": 3}, "as model.num_query_groups = 2(.|\n)*divide num_attention_heads = 3"),
    ("llama", {"rope_scaling": {"rope_type": "linear"}}, "factor"),
    ("llama", {"max_position_embeddings": None}, "max_position_embeddings"),
]


def write_config(folder: Path, family: str, values: dict[str, Any]) -> Path:
    config = {"model_type": family, "architectures": [f"{family.capitalize()}ForCausalLM"], **PLAIN, **values}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_model(folder: Path, family: str, values: dict[str, Any]) -> Path:
    """A random model as transformers makes it of a config.json that holds `values`."""
    config = AutoConfig.from_pretrained(str(write_config(folder, family, values)))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # biases are made as zeros, norms as ones
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(str(folder))
    return write_config(folder, family, values)


@pytest.mark.parametrize(("family", "values"), IMPORTED, ids=str)
def test_imported_as_transformers_reads_it(family: str, values: dict[str, Any], tmp_path: Path, groups: Groups) -> None:
    folder = write_model(tmp_path, family, values)
    core = build_core_model(read_model_config(folder), groups, bf16=False, seq_length=TOKENS.shape[1])
    fill_from_hf(core, HfWeights(folder))
    back = tmp_path / "back"
    write_hf_config(back, core.config, torch.float32, {})
    write_weights(back, hf_tensors(core, torch.float32))
    assert read_model_config(back) == core.config
    before, after = HfWeights(folder), HfWeights(back)
    assert all(torch.equal(before.tensor(name), after.tensor(name)) for name in before.names | after.names)
    for given in (folder, back):
        parity = compare_logits(core, given, TOKENS, 1e-4)
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


@pytest.mark.parametrize(
    ("family", "values", "wrong"),
    [
        ("llama", {"rope_scaling": LLAMA3, "rope_theta": 5e5}, {"rope_factor": 9.0}),
        ("llama", {"rope_scaling": LLAMA3, "rope_theta": 5e5}, {"rope_original_max_position_embeddings": 17}),
        ("llama", {"rope_scaling": YARN}, {"rope_attention_factor": 1.14}),
        ("llama", {"rope_scaling": YARN}, {"rope_type": "default"}),
        ("llama", {}, {"rotary_base": 10010.0}),
        ("smollm3", {"no_rope_layer_interval": 2}, {"no_rope_freq": None}),
    ],
    ids=str,
)
def test_wrong_rope_is_seen(
    family: str, values: dict[str, Any], wrong: dict[str, Any], tmp_path: Path, groups: Groups
) -> None:
    """Two tokens show nothing of it: it is the twins and the frequencies that do."""
    folder, tokens = write_model(tmp_path, family, values), TOKENS[:, :2]
    right = read_model_config(folder)
    for model, outcome in ((right, nullcontext()), (right.model_copy(update=wrong), pytest.raises(ParityError))):
        core = build_core_model(model, groups, bf16=False, seq_length=2)
        fill_from_hf(core, HfWeights(folder))
        with outcome:
            check_parity(core, folder, tokens, groups, 10.0, tmp_path)


def test_what_is_too_long_to_compare_is_named(tmp_path: Path, groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megatron_ipt.conversion.twin.MAX_TOKENS", 64)
    folder = write_model(tmp_path, "mistral", {"sliding_window": 70})
    right = read_model_config(folder)
    core = build_core_model(right.model_copy(update={"sliding_window": 71}), groups, bf16=False, seq_length=48)
    fill_from_hf(core, HfWeights(folder))
    with pytest.raises(ParityError):
        check_parity(core, folder, TOKENS, groups, 1e-4, tmp_path)
    core = build_core_model(right, groups, bf16=False, seq_length=48)
    fill_from_hf(core, HfWeights(folder))
    check_parity(core, folder, TOKENS, groups, 1e-4, tmp_path)
    parity = json.loads((tmp_path / "parity.json").read_text())
    assert parity["twins"]["shortened"] == ["sliding_window = 70, to 52"]
    assert parity["rope"]["frequencies_compared"] == 4
    found = parity["not_compared"]
    assert found == ["logits at positions from 64 to 96"]
