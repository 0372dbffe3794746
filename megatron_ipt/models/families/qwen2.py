"""Qwen2 and Qwen2.5: https://huggingface.co/docs/transformers/model_doc/qwen2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.errors import Problem
from megatron_ipt.models.layer_costs import LayerSize
from megatron_ipt.models.model_family import ModelFamily
from megatron_ipt.models.weight_maps import QKV_BIAS

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class Qwen(ModelFamily):
    """Base of all generations of Qwen: a sliding window in every layer or in none, enabled by `use_sliding_window`."""

    own_attributes = frozenset({"sliding_window", "use_sliding_window", "max_window_layers"})

    def sliding_window(self, hf: PretrainedConfig) -> int | None:
        """Return the window if every layer has it; if only some have it, `layer_types` is reported as unsupported."""
        window: int | None = hf.sliding_window
        return window if set(hf.layer_types) == {"sliding_attention"} else None

    def hf_values(self, model: ModelConfig) -> dict[str, Any]:
        windowed = model.sliding_window is not None
        return {
            **super().hf_values(model),
            "use_sliding_window": windowed,
            "sliding_window": model.sliding_window,
            "max_window_layers": 0 if windowed else model.num_layers,
        }


class Qwen2(Qwen):
    """A decoder with biases on queries, keys and values."""

    architecture = "Qwen2ForCausalLM"
    replaces_pre_tokenizer = True  # transformers 5
    layer = (*ModelFamily.layer, QKV_BIAS)

    def export_problems(self, model: ModelConfig) -> Iterator[Problem]:
        """Reject a head dimension that vLLM, unlike transformers, does not read from config.json.

        vLLM 0.32 would load only part of each matrix, without an error, and generate different tokens.
        """
        yield from super().export_problems(model)
        implied = model.hidden_size // model.num_attention_heads
        if model.head_dim != implied:
            yield Problem(
                "model.kv_channels",
                model.kv_channels,
                f"vLLM assumes hidden_size / num_attention_heads = {implied} for {self.architecture}",
                "leave it unset, or use model.family=qwen3, which allows any head dimension",
            )

    def transformer_settings(self) -> dict[str, Any]:
        return {**super().transformer_settings(), "add_qkv_bias": True}

    def layer_size(self, model: ModelConfig) -> LayerSize:
        biases = (model.num_attention_heads + 2 * model.num_query_groups) * model.head_dim
        return replace(super().layer_size(model), biases=biases)
