"""Model families: a Hugging Face architecture as described to the trainer, the converter and the planner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.model_families import MODEL_FAMILIES
from megatron_ipt.config.pretrain import ParallelConfig, PrecisionConfig
from megatron_ipt.errors import Problem
from megatron_ipt.models import layer_costs, rope_scaling, weight_maps
from megatron_ipt.models.layer_costs import LayerSize
from megatron_ipt.models.weight_maps import WeightMap

if TYPE_CHECKING:
    from megatron.core.transformer import ModuleSpec
    from transformers import PretrainedConfig


def load_family(name: str) -> ModelFamily:
    """Import and instantiate the family that `config.model_families` registers as `name`."""
    family: type[ModelFamily] = MODEL_FAMILIES.load(name)
    return family()


class ModelFamily:
    """A Hugging Face architecture.

    The base class implements decoders like Llama: RMSNorm, SwiGLU, RoPE, grouped-query attention, no biases. A family
    is a subclass in its own module that overrides the differences, registered under its `model_type` in config.json.
    The module must not import torch, megatron-core or transformers at module level, because the planner runs on
    machines without them.

    Attributes:
        architecture: class of the model in transformers.
        own_attributes: attributes of config.json that this family's classes read and those of other families may not;
            in the config.json of another family, they have no effect and are reported.
        replaces_pre_tokenizer: whether transformers gives its own pre-tokenizer to every tokenizer of this family,
            whatever tokenizer.json says, so that an export with another tokenizer is rejected.
        embedding, final_norm, head, layer: the weights; a model with tied embeddings has no `head`.
    """

    architecture: ClassVar[str]
    own_attributes: ClassVar[frozenset[str]] = frozenset()
    replaces_pre_tokenizer: ClassVar[bool] = False
    embedding: ClassVar[WeightMap] = weight_maps.EMBEDDING
    final_norm: ClassVar[WeightMap] = weight_maps.FINAL_NORM
    head: ClassVar[WeightMap] = weight_maps.HEAD
    layer: ClassVar[tuple[WeightMap, ...]] = weight_maps.LAYER

    # config.json

    def sliding_window(self, hf: PretrainedConfig) -> int | None:
        """Return the number of tokens that each token attends to, including itself, in every layer; None for all."""
        return None

    def model_values(self, hf: PretrainedConfig) -> dict[str, Any]:
        """Translate config.json, as read by transformers, to settings of `ModelConfig`."""
        heads, head_dim = hf.num_attention_heads, getattr(hf, "head_dim", None)
        return {
            "num_layers": hf.num_hidden_layers,
            "hidden_size": hf.hidden_size,
            "ffn_hidden_size": hf.intermediate_size,
            "num_attention_heads": heads,
            "num_query_groups": hf.num_key_value_heads,
            "kv_channels": head_dim if head_dim and head_dim * heads != hf.hidden_size else None,
            "vocab_size": hf.vocab_size,
            "max_position_embeddings": hf.max_position_embeddings,
            "untie_embeddings_and_output_weights": not hf.tie_word_embeddings,
            **rope_scaling.rope_settings(hf.rope_parameters),
            "layernorm_epsilon": hf.rms_norm_eps,
            "sliding_window": self.sliding_window(hf),
            "init_method_std": hf.initializer_range,
            "attention_dropout": hf.attention_dropout or 0.0,
        }

    def hf_values(self, model: ModelConfig) -> dict[str, Any]:
        """Translate `model` to arguments of the configuration class in transformers."""
        return {
            "vocab_size": model.vocab_size,
            "hidden_size": model.hidden_size,
            "intermediate_size": model.ffn_hidden_size,
            "num_hidden_layers": model.num_layers,
            "num_attention_heads": model.num_attention_heads,
            "num_key_value_heads": model.num_query_groups,
            "head_dim": model.head_dim,
            "max_position_embeddings": model.max_position_embeddings,
            "tie_word_embeddings": not model.untie_embeddings_and_output_weights,
            "rope_parameters": rope_scaling.rope_parameters(model),
            "rms_norm_eps": model.layernorm_epsilon,
            "initializer_range": model.init_method_std,
            "attention_dropout": model.attention_dropout,
        }

    def unsupported(self, hf: PretrainedConfig) -> dict[str, object]:
        """Return the attributes of config.json whose values cannot be converted.

        An attribute with a supported value is left out, or has a false value.
        """
        window = self.sliding_window(hf)
        layer_types = getattr(hf, "layer_types", None)  # serving engines read it even where transformers does not
        uniform = "full_attention" if window is None else "sliding_attention"
        return {
            "rope_scaling": rope_scaling.unsupported_rope(hf.rope_parameters),
            "hidden_act": hf.hidden_act != "silu" and hf.hidden_act,
            "is_causal": "" if getattr(hf, "is_causal", True) else "false",
            "sliding_window": window is not None and window <= 0 and str(window),
            "layer_types": layer_types and set(layer_types) != {uniform} and layer_types,
            "quantization_config": getattr(hf, "quantization_config", None),
        }

    def export_problems(self, model: ModelConfig) -> Iterator[Problem]:
        """Find settings of `model` that the Hugging Face architecture cannot express."""
        if model.sliding_window is not None and "sliding_window" not in self.hf_values(model):
            yield Problem(
                "model.sliding_window",
                model.sliding_window,
                f"Hugging Face's {self.architecture} has no sliding window",
                "choose a model.family that has one, as mistral does",
            )
        if model.no_rope_freq is not None and "no_rope_layers" not in self.hf_values(model):
            yield Problem(
                "model.no_rope_freq",
                model.no_rope_freq,
                f"Hugging Face's {self.architecture} has RoPE in every layer",
                "choose a model.family that has layers without it, as smollm3 does",
            )

    # weights

    def weight_maps(self, model: ModelConfig) -> Iterator[WeightMap]:
        """Yield the maps of all parameters of `model`; a tied LM head has no separate map."""
        yield from (self.embedding, self.final_norm)
        if model.untie_embeddings_and_output_weights:
            yield self.head
        for number in range(model.num_layers):
            for weight_map in self.layer:
                yield weight_map.of_layer(number)

    # layers

    def transformer_settings(self) -> dict[str, Any]:
        """Return the arguments of megatron-core's TransformerConfig that define the architecture."""
        from torch.nn.functional import silu

        return {
            "normalization": "RMSNorm",
            "gated_linear_unit": True,
            "activation_func": silu,
            "add_bias_linear": False,
        }

    def layer_spec(self, impl: str) -> ModuleSpec:
        """Return the specification of a layer; `impl` is `local` or `transformer_engine`."""
        from megatron_ipt.models.layer_specs import decoder_layer_spec

        return decoder_layer_spec(impl)

    # costs

    def layer_size(self, model: ModelConfig) -> LayerSize:
        """Return the sizes of a layer, which determine parameters and FLOPs."""
        return layer_costs.layer_size(model)

    def layer_activations_per_token(
        self, model: ModelConfig, parallel: ParallelConfig, precision: PrecisionConfig
    ) -> float:
        """Return the bytes per token that a layer stores for its backward pass, on each rank."""
        return layer_costs.layer_activations_per_token(model, parallel, precision)

    def layer_gradients_per_token(
        self, model: ModelConfig, parallel: ParallelConfig, precision: PrecisionConfig
    ) -> float:
        """Return the bytes per token that the backward pass of a layer needs in addition, on each rank."""
        return layer_costs.layer_gradients_per_token(model, parallel, precision)
