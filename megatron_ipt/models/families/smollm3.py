"""SmolLM3: https://huggingface.co/docs/transformers/model_doc/smollm3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.models.model_family import ModelFamily
from megatron_ipt.models.rope_scaling import rope_layers

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class SmolLM3(ModelFamily):
    """A decoder with layers without RoPE at regular intervals; biases and sliding windows are not supported."""

    architecture = "SmolLM3ForCausalLM"
    own_attributes = frozenset({"attention_bias", "mlp_bias", "no_rope_layers", "no_rope_layer_interval"})

    def model_values(self, hf: PretrainedConfig) -> dict[str, Any]:
        return {**super().model_values(hf), "no_rope_freq": _interval(hf.no_rope_layers)}

    def hf_values(self, model: ModelConfig) -> dict[str, Any]:
        return {
            **super().hf_values(model),
            "no_rope_layers": rope_layers(model.num_layers, model.no_rope_freq),
            "no_rope_layer_interval": model.no_rope_freq or model.num_layers + 1,
        }

    def unsupported(self, hf: PretrainedConfig) -> dict[str, object]:
        layers = hf.no_rope_layers
        is_regular = layers[: hf.num_hidden_layers] == rope_layers(hf.num_hidden_layers, _interval(layers))
        return {
            **super().unsupported(hf),
            "attention_bias": hf.attention_bias,
            "mlp_bias": hf.mlp_bias,
            "no_rope_layers": not is_regular and layers,
        }


def _interval(layers: list[int]) -> int | None:
    """Return the number of the first layer without RoPE, counted from 1; layers without RoPE are 0 in `layers`."""
    return layers.index(0) + 1 if 0 in layers else None
