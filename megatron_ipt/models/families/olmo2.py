"""OLMo-2: https://huggingface.co/docs/transformers/model_doc/olmo2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import ParallelConfig, PrecisionConfig
from megatron_ipt.errors import Problem
from megatron_ipt.models import layer_costs
from megatron_ipt.models.layer_costs import LayerSize
from megatron_ipt.models.model_family import ModelFamily
from megatron_ipt.models.weight_maps import MATRICES, POST_NORMS, QK_NORMS

if TYPE_CHECKING:
    from megatron.core.transformer import ModuleSpec
    from transformers import PretrainedConfig


class Olmo2(ModelFamily):
    """A decoder with norms after attention and feed-forward network, and over all queries and all keys of a token.

    Biases and scaled RoPE are not supported.
    """

    architecture = "Olmo2ForCausalLM"
    own_attributes = frozenset({"attention_bias"})
    layer = (*MATRICES, *POST_NORMS, *QK_NORMS)

    def unsupported(self, hf: PretrainedConfig) -> dict[str, object]:
        is_scaled = hf.rope_parameters.get("rope_type") != "default"
        scaling = {"rope_scaling": dict(hf.rope_parameters)} if is_scaled else {}
        return {**super().unsupported(hf), **scaling, "attention_bias": hf.attention_bias}

    def export_problems(self, model: ModelConfig) -> Iterator[Problem]:
        yield from super().export_problems(model)
        if model.rope_type != "default":
            yield Problem(
                "model.rope_type",
                model.rope_type,
                f"transformers 4 does not support {self.architecture} with scaled RoPE",
                "set it to default, or use a different model.family",
            )

    def layer_spec(self, impl: str) -> ModuleSpec:
        from megatron_ipt.models.post_norms import post_norm_layer_spec

        return post_norm_layer_spec(impl)

    def layer_size(self, model: ModelConfig) -> LayerSize:
        """Count the norms of queries and keys as biases: both are split over the tensor ranks."""
        return replace(super().layer_size(model), biases=_heads(model) * model.head_dim)

    def layer_activations_per_token(
        self, model: ModelConfig, parallel: ParallelConfig, precision: PrecisionConfig
    ) -> float:
        """Add the fp32 inputs of the norms of queries and keys, before and after scaling."""
        norms = 2 * layer_costs.FP32_BYTES * _heads(model) * model.head_dim / parallel.tensor_model_parallel_size
        return super().layer_activations_per_token(model, parallel, precision) + norms


def _heads(model: ModelConfig) -> int:
    return model.num_attention_heads + model.num_query_groups
