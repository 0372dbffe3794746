"""Llama: https://huggingface.co/docs/transformers/model_doc/llama."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.errors import Problem
from megatron_ipt.models.model_family import ModelFamily

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class Llama(ModelFamily):
    """A decoder without a sliding window; biases are not supported."""

    architecture = "LlamaForCausalLM"
    own_attributes = frozenset({"attention_bias", "mlp_bias"})

    def unsupported(self, hf: PretrainedConfig) -> dict[str, object]:
        return {**super().unsupported(hf), "attention_bias": hf.attention_bias, "mlp_bias": hf.mlp_bias}

    def export_problems(self, model: ModelConfig) -> Iterator[Problem]:
        yield from super().export_problems(model)
        if model.hidden_size % model.num_attention_heads:
            yield Problem(
                "model.hidden_size",
                model.hidden_size,
                f"Hugging Face's {self.architecture} requires a multiple of the attention heads",
                "model.family=mistral is the same architecture without that limit",
            )
