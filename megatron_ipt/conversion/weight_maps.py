"""Which tensors of a Hugging Face model make which of megatron-core's, and how: data, read in both directions.

Legend: h hidden size, f feed-forward size, d head width, n query heads, g key-value heads (query groups).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from megatron_ipt.config.model import ModelConfig

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Transform:
    """Both directions of one way to put tensors together; each is the exact inverse of the other."""

    to_core: Callable[[Sequence[torch.Tensor], ModelConfig], torch.Tensor]
    to_hf: Callable[[torch.Tensor, ModelConfig], Tensors]


@dataclass(frozen=True)
class WeightMap:
    """One tensor of megatron-core's and the Hugging Face tensors it is made of; `{layer}` stands for the number."""

    core: str
    hf: tuple[str, ...]
    transform: Transform

    def of_layer(self, layer: int) -> WeightMap:
        """The same with the number filled in."""
        return WeightMap(
            self.core.format(layer=layer), tuple(name.format(layer=layer) for name in self.hf), self.transform
        )


@dataclass(frozen=True)
class Family:
    """A Hugging Face architecture that our models can be written as."""

    architecture: str
    config_class: str
    own_attributes: frozenset[str]
    """Attributes of config.json that its class reads and another family's does not."""
    divides_hidden_size: bool
    """Whether transformers insists that the hidden size is a multiple of the attention heads."""
    outer: tuple[WeightMap, ...]
    head: WeightMap
    layer: tuple[WeightMap, ...]


def _interleave_qkv(parts: Sequence[torch.Tensor], model: ModelConfig) -> torch.Tensor:
    """q [n d, h], k [g d, h], v [g d, h] to [(n + 2 g) d, h]: for each group its queries, its key, its value."""
    groups = (part.view(model.num_query_groups, -1, model.hidden_size) for part in parts)
    return torch.cat(tuple(groups), dim=1).reshape(-1, model.hidden_size)


def _separate_qkv(tensor: torch.Tensor, model: ModelConfig) -> Tensors:
    width = model.head_dim
    queries = model.num_attention_heads // model.num_query_groups * width
    groups = tensor.view(model.num_query_groups, queries + 2 * width, model.hidden_size)
    return tuple(part.reshape(-1, model.hidden_size) for part in torch.split(groups, [queries, width, width], dim=1))


COPY = Transform(lambda parts, _: parts[0], lambda tensor, _: (tensor,))
INTERLEAVE_QKV = Transform(_interleave_qkv, _separate_qkv)
STACK_GATE_UP = Transform(lambda parts, _: torch.cat(tuple(parts)), lambda tensor, _: tensor.chunk(2))
"""gate [f, h] and up [f, h] to [2 f, h]."""

_CORE, _HF = "decoder.layers.{layer}.", "model.layers.{layer}."
_OUTER = (
    WeightMap("embedding.word_embeddings.weight", ("model.embed_tokens.weight",), COPY),
    WeightMap("decoder.final_layernorm.weight", ("model.norm.weight",), COPY),
)
_HEAD = WeightMap("output_layer.weight", ("lm_head.weight",), COPY)
_LAYER = (
    WeightMap(f"{_CORE}input_layernorm.weight", (f"{_HF}input_layernorm.weight",), COPY),
    WeightMap(
        f"{_CORE}self_attention.linear_qkv.weight",
        (f"{_HF}self_attn.q_proj.weight", f"{_HF}self_attn.k_proj.weight", f"{_HF}self_attn.v_proj.weight"),
        INTERLEAVE_QKV,
    ),
    WeightMap(f"{_CORE}self_attention.linear_proj.weight", (f"{_HF}self_attn.o_proj.weight",), COPY),
    WeightMap(f"{_CORE}pre_mlp_layernorm.weight", (f"{_HF}post_attention_layernorm.weight",), COPY),
    WeightMap(
        f"{_CORE}mlp.linear_fc1.weight",
        (f"{_HF}mlp.gate_proj.weight", f"{_HF}mlp.up_proj.weight"),
        STACK_GATE_UP,
    ),
    WeightMap(f"{_CORE}mlp.linear_fc2.weight", (f"{_HF}mlp.down_proj.weight",), COPY),
)

FAMILIES: dict[str, Family] = {
    "mistral": Family(
        "MistralForCausalLM", "MistralConfig", frozenset({"sliding_window"}), False, _OUTER, _HEAD, _LAYER
    ),
    "llama": Family(
        "LlamaForCausalLM", "LlamaConfig", frozenset({"attention_bias", "mlp_bias"}), True, _OUTER, _HEAD, _LAYER
    ),
}


def weight_maps(model: ModelConfig) -> Iterator[WeightMap]:
    """Every tensor of `model`; a tied LM head is the embedding and has no tensor of its own."""
    family = FAMILIES[model.family]
    yield from family.outer
    if model.untie_embeddings_and_output_weights:
        yield family.head
    for layer in range(model.num_layers):
        for weight_map in family.layer:
            yield weight_map.of_layer(layer)
