"""Maps between megatron-core's parameters and the tensors of Hugging Face models, used in both directions.

Legend: h hidden size, f feed-forward size, d head width, n query heads, g key-value heads (query groups).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from megatron_ipt.config.model import ModelConfig

if TYPE_CHECKING:  # the planner reads families too, without torch
    from torch import Tensor


@dataclass(frozen=True)
class Transform:
    """A function that combines Hugging Face tensors into one parameter, and its exact inverse.

    Attributes:
        stacks: whether the parameter is the concatenation of the tensors along the first dimension, so that each of
            them can be written separately.
    """

    to_core: Callable[[Sequence[Tensor], ModelConfig], Tensor]
    to_hf: Callable[[Tensor, ModelConfig], tuple[Tensor, ...]]
    stacks: bool = False


@dataclass(frozen=True)
class WeightMap:
    """One parameter of megatron-core's model, and the Hugging Face tensors that it consists of.

    Attributes:
        core: name of the parameter in megatron-core's own layers; `{layer}` is replaced by the layer number.
        hf: names of the tensors, in the order in which `transform` takes them.
    """

    core: str
    hf: tuple[str, ...]
    transform: Transform

    def of_layer(self, layer: int) -> WeightMap:
        """Return the map with the layer number filled in."""
        return WeightMap(
            self.core.format(layer=layer), tuple(name.format(layer=layer) for name in self.hf), self.transform
        )


def _interleave_qkv(parts: Sequence[Tensor], model: ModelConfig) -> Tensor:
    """Combine q [n d, ...], k [g d, ...], v [g d, ...] to [(n + 2 g) d, ...]: queries, key and value of each group."""
    import torch

    groups = [part.reshape(model.num_query_groups, -1, *part.shape[1:]) for part in parts]
    return torch.cat(groups, dim=1).flatten(0, 1)


def _separate_qkv(tensor: Tensor, model: ModelConfig) -> tuple[Tensor, ...]:
    import torch

    width = model.head_dim
    queries = model.num_attention_heads // model.num_query_groups * width
    groups = tensor.reshape(model.num_query_groups, queries + 2 * width, *tensor.shape[1:])
    return tuple(part.flatten(0, 1) for part in torch.split(groups, [queries, width, width], dim=1))


def _stack(parts: Sequence[Tensor], model: ModelConfig) -> Tensor:
    import torch

    return torch.cat(tuple(parts))


COPY = Transform(lambda parts, _: parts[0], lambda tensor, _: (tensor,), stacks=True)
INTERLEAVE_QKV = Transform(_interleave_qkv, _separate_qkv)
"""For both weights [.., h] and biases."""
STACK_GATE_UP = Transform(_stack, lambda tensor, _: tensor.chunk(2), stacks=True)
"""gate [f, h] and up [f, h] to [2 f, h]."""

CORE_LAYER, HF_LAYER = "decoder.layers.{layer}.", "model.layers.{layer}."
EMBEDDING = WeightMap("embedding.word_embeddings.weight", ("model.embed_tokens.weight",), COPY)
FINAL_NORM = WeightMap("decoder.final_layernorm.weight", ("model.norm.weight",), COPY)
HEAD = WeightMap("output_layer.weight", ("lm_head.weight",), COPY)
MATRICES = (
    WeightMap(
        f"{CORE_LAYER}self_attention.linear_qkv.weight",
        tuple(f"{HF_LAYER}self_attn.{name}_proj.weight" for name in "qkv"),
        INTERLEAVE_QKV,
    ),
    WeightMap(f"{CORE_LAYER}self_attention.linear_proj.weight", (f"{HF_LAYER}self_attn.o_proj.weight",), COPY),
    WeightMap(
        f"{CORE_LAYER}mlp.linear_fc1.weight",
        (f"{HF_LAYER}mlp.gate_proj.weight", f"{HF_LAYER}mlp.up_proj.weight"),
        STACK_GATE_UP,
    ),
    WeightMap(f"{CORE_LAYER}mlp.linear_fc2.weight", (f"{HF_LAYER}mlp.down_proj.weight",), COPY),
)
"""Grouped-query attention and SwiGLU, without biases."""
LAYER = (
    WeightMap(f"{CORE_LAYER}input_layernorm.weight", (f"{HF_LAYER}input_layernorm.weight",), COPY),
    WeightMap(f"{CORE_LAYER}pre_mlp_layernorm.weight", (f"{HF_LAYER}post_attention_layernorm.weight",), COPY),
    *MATRICES,
)
"""A layer with RMSNorm before attention and before the feed-forward network."""
POST_NORMS = (
    WeightMap(f"{CORE_LAYER}post_self_attn_layernorm.weight", (f"{HF_LAYER}post_attention_layernorm.weight",), COPY),
    WeightMap(f"{CORE_LAYER}post_mlp_layernorm.weight", (f"{HF_LAYER}post_feedforward_layernorm.weight",), COPY),
)
"""RMSNorm after attention and after the feed-forward network, as named in `megatron_ipt.models.post_norms`."""
QKV_BIAS = WeightMap(
    f"{CORE_LAYER}self_attention.linear_qkv.bias",
    tuple(f"{HF_LAYER}self_attn.{name}_proj.bias" for name in "qkv"),
    INTERLEAVE_QKV,
)
QK_NORMS = tuple(
    WeightMap(f"{CORE_LAYER}self_attention.{name}_layernorm.weight", (f"{HF_LAYER}self_attn.{name}_norm.weight",), COPY)
    for name in "qk"
)
"""RMSNorm of each query head and of each key head [d], or of all of them together [n d], [g d]."""
