"""Qwen3: https://huggingface.co/docs/transformers/model_doc/qwen3."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import ParallelConfig, PrecisionConfig
from megatron_ipt.models import layer_costs
from megatron_ipt.models.families.qwen2 import Qwen
from megatron_ipt.models.layer_costs import LayerSize
from megatron_ipt.models.model_family import ModelFamily
from megatron_ipt.models.weight_maps import QK_NORMS

if TYPE_CHECKING:
    from megatron.core.transformer import ModuleSpec
    from transformers import PretrainedConfig


class Qwen3(Qwen):
    """A decoder with norms of each query and key head; biases are not supported."""

    architecture = "Qwen3ForCausalLM"
    own_attributes = Qwen.own_attributes | {"attention_bias"}
    layer = (*ModelFamily.layer, *QK_NORMS)

    def unsupported(self, hf: PretrainedConfig) -> dict[str, object]:
        return {**super().unsupported(hf), "attention_bias": hf.attention_bias}

    def transformer_settings(self) -> dict[str, Any]:
        return {**super().transformer_settings(), "qk_layernorm": True}

    def layer_spec(self, impl: str) -> ModuleSpec:
        from megatron_ipt.models.layer_specs import decoder_layer_spec

        return decoder_layer_spec(impl, qk_norms=True)

    def layer_size(self, model: ModelConfig) -> LayerSize:
        size = super().layer_size(model)
        return replace(size, norms=size.norms + 2 * model.head_dim)

    def layer_activations_per_token(
        self, model: ModelConfig, parallel: ParallelConfig, precision: PrecisionConfig
    ) -> float:
        """Add the inputs of both norms, which megatron-core's own norms store in fp32 as well."""
        width = layer_costs.value_bytes(precision)
        kept = width if precision.transformer_impl != "local" else width + 2 * layer_costs.FP32_BYTES
        heads = model.num_attention_heads + model.num_query_groups
        norms = kept * heads * model.head_dim / parallel.tensor_model_parallel_size
        return super().layer_activations_per_token(model, parallel, precision) + norms
