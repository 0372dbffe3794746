"""Megatron-LM's arguments as a model of ours, and back."""

from __future__ import annotations

from typing import Any

import pytest
from megatron_lm_files import ARGUMENTS, SHAPE, VOCABULARY

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.conversion.megatron_lm.arguments import model_of, warnings_of
from megatron_ipt.conversion.megatron_lm.flags import arguments_of, flags_of
from megatron_ipt.errors import UserError


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"normalization": "LayerNorm"}, "normalization = LayerNorm"),
        ({"swiglu": False}, "swiglu"),
        ({"add_bias_linear": True}, "add_bias_linear"),
        ({"rotary_percent": 0.5}, "rotary_percent"),
        ({"rotary_interleaved": True}, "rotary_interleaved"),
        ({"position_embedding_type": "learned_absolute"}, "position_embedding_type = learned_absolute"),
        ({"num_experts": 8}, "num_experts"),
        ({"multi_latent_attention": True}, "multi_latent_attention"),
        ({"apply_layernorm_1p": True}, "apply_layernorm_1p"),
        ({"softmax_type": "learnable"}, "softmax_type"),
        ({"spec": ["a", "b"]}, "spec"),
        ({"window_size": (31, 31)}, "window_size"),
        ({"window_size": (31, 0), "window_attn_skip_freq": 2}, "window_attn_skip_freq"),
        ({"qk_layernorm": True, "add_qkv_bias": True}, "qk_layernorm"),
        ({"no_rope_freq": [1, 0, 0, 0]}, "no_rope_freq"),
        ({"hidden_size": None}, "hidden_size"),
    ],
)
def test_models_that_ours_cannot_be(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        model_of({**ARGUMENTS, **changes}, VOCABULARY)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"family": "llama", "num_query_groups": 2, "layernorm_epsilon": 1e-6, "rotary_base": 10000.0}),
        ({"group_query_attention": False}, {"num_query_groups": 6}),
        ({"kv_channels": 8}, {"kv_channels": None}),
        ({"kv_channels": 16}, {"kv_channels": 16}),
        ({"num_attention_heads": 5, "kv_channels": 8}, {"family": "mistral"}),
        ({"spec": ["local"]}, {"family": "llama"}),
        ({"norm_epsilon": None, "layernorm_epsilon": 1e-4}, {"layernorm_epsilon": 1e-4}),
        ({"window_size": (31, 0)}, {"family": "mistral", "sliding_window": 32}),
        ({"window_size": (-1, 0)}, {"family": "llama", "sliding_window": None}),
        ({"add_qkv_bias": True}, {"family": "qwen2"}),
        ({"qk_layernorm": True}, {"family": "qwen3"}),
        ({"no_rope_freq": [0, 1, 0, 1]}, {"family": "smollm3", "no_rope_freq": 2}),
        ({"no_rope_freq": [0, 0, 0, 0]}, {"family": "llama", "no_rope_freq": None}),
        ({"no_rope_freq": 4}, {"family": "smollm3", "no_rope_freq": 4}),
        (
            {"use_rope_scaling": True, "rope_scaling_factor": 32.0, "rotary_base": 500000},
            {"rope_type": "llama3", "rope_factor": 32.0, "rotary_base": 500000.0},
        ),
        ({"rotary_seq_len_interpolation_factor": 4}, {"rope_type": "linear", "rope_factor": 4.0}),
        (
            {"position_embedding_type": "yarn", "rotary_scaling_factor": 4.0, "yarn_beta_fast": None, "mscale": 1.0},
            {"rope_type": "yarn", "rope_factor": 4.0, "rope_beta_fast": 32.0, "rope_attention_factor": None},
        ),
        (
            {
                "position_embedding_type": "yarn",
                "rotary_scaling_factor": 4.0,
                "mscale": 0.5,
                "mscale_all_dim": 0.5,
            },
            {"rope_attention_factor": 1.0},
        ),
        ({"position_embedding_type": "learned_absolute", "use_rotary_position_embeddings": True}, {"family": "llama"}),
    ],
)
def test_arguments_become_a_model(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    model = model_of({**ARGUMENTS, **changes}, VOCABULARY)
    assert model.model_dump(include=set(expected)) == expected
    assert model_of(arguments_of(model), VOCABULARY) == model


@pytest.mark.parametrize(
    "settings",
    [
        {"rotary_base": 10000.5},
        {"rope_type": "linear", "rope_factor": 1.5},
        {"rope_type": "llama3", "rope_factor": 8.0, "rope_original_max_position_embeddings": 4096},
    ],
)
def test_models_that_megatron_lm_cannot_be_told_of(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="Megatron-LM can"):
        arguments_of(ModelConfig(family="llama", **SHAPE, **settings))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, []),
        ({"family": "qwen3"}, ["--qk-layernorm"]),
        ({"family": "mistral", "sliding_window": 32}, ["--window-size=31,0"]),
        ({"family": "smollm3", "no_rope_freq": 4}, ["--no-rope-freq=4"]),
        (
            {"rope_type": "llama3", "rope_factor": 32.0},
            ["--use-rope-scaling", "--rope-scaling-factor=32.0"],
        ),
        ({"rope_type": "linear", "rope_factor": 2.0}, ["--rotary-seq-len-interpolation-factor=2"]),
    ],
)
def test_flags_that_use_checkpoint_args_passes_over(settings: dict[str, Any], expected: list[str]) -> None:
    model = ModelConfig(**{"family": "llama", **SHAPE, **settings})
    assert sorted(flags_of(model)) == sorted(["--norm-epsilon=1e-05", *expected])
    assert [*map(bool, warnings_of(model))] == [True] * (model.rope_type == "llama3")
