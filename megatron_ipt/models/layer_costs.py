"""Parameters of one layer, and its memory per token. Does not import torch, so that planning works on login nodes.

They are those of a layer with RMSNorm, grouped-query attention and SwiGLU; model families that differ override them.
Legend: h hidden size, f feed-forward size, q query heads x head width, k key-value heads x head width.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import ParallelConfig, PrecisionConfig

FP32_BYTES = 4
BF16_BYTES = 2
FP8_BYTES = 1


@dataclass(frozen=True)
class LayerSize:
    """Sizes of one layer, from which its parameters and floating-point operations follow.

    Attributes:
        matrices: parameters of matrices; split over the tensor ranks; each is one multiply-add per token.
        norms: parameters that every tensor rank holds in full.
        biases: parameters of vectors that are split over the tensor ranks.
        attention_width: query heads x head width; each is two multiply-adds per token and attended token.
    """

    matrices: int
    norms: int
    attention_width: int
    biases: int = 0

    @property
    def parameters(self) -> int:
        """Parameters of the layer."""
        return self.matrices + self.norms + self.biases


def layer_size(model: ModelConfig) -> LayerSize:
    """Return the sizes of a layer: matrices with h(2q + 2k) + 3hf parameters, two norms, no biases."""
    queries = model.num_attention_heads * model.head_dim
    keys = model.num_query_groups * model.head_dim
    return LayerSize(
        matrices=model.hidden_size * (2 * queries + 2 * keys + 3 * model.ffn_hidden_size),
        norms=2 * model.hidden_size,
        attention_width=queries,
    )


def layer_activations_per_token(model: ModelConfig, parallel: ParallelConfig, precision: PrecisionConfig) -> float:
    """Return the bytes per token that one layer stores for its backward pass, on each rank.

    With Transformer Engine's fused kernels, these are: input and output of both norms; the fused QKV projection,
    queries and keys after RoPE, and the attention output; gate, up and their product. megatron-core's own layers store
    more: the normalized input of each norm in fp32; keys and values repeated for the query heads or, if there are as
    many of them, within the projection; and the parts of SwiGLU. In FP8, the inputs of matrix products take one byte,
    and the attention output is stored twice, since attention itself does not run in FP8.
    """
    tensor, width = parallel.tensor_model_parallel_size, value_bytes(precision)
    queries = model.num_attention_heads * model.head_dim
    keys = model.num_query_groups * model.head_dim
    shards = sequence_shards(parallel)
    if precision.transformer_impl != "local":
        operand = width if precision.fp8 is None else FP8_BYTES
        norms = (width + operand) * 2 * model.hidden_size
        attention = width * (3 * queries + 3 * keys) + FP32_BYTES * model.num_attention_heads
        context_copy = 0 if precision.fp8 is None else FP8_BYTES * queries
        ffn = (2 * width + operand) * model.ffn_hidden_size
        return norms / shards + (attention + context_copy + ffn) / tensor
    norms = FP32_BYTES * 4 * model.hidden_size + width * 2 * model.hidden_size
    attention = width * (4 if keys < queries else 6) * queries + FP32_BYTES * model.num_attention_heads
    return norms / shards + (attention + width * 5 * model.ffn_hidden_size) / tensor


def layer_gradients_per_token(model: ModelConfig, parallel: ParallelConfig, precision: PrecisionConfig) -> float:
    """Return the bytes per token that the backward pass of one layer needs in addition to the stored activations.

    These are the gradients of gate, up and their product, of the layer's output and of its input.
    """
    width = value_bytes(precision)
    return width * (3 * model.ffn_hidden_size / parallel.tensor_model_parallel_size + 2 * model.hidden_size)


def sequence_shards(parallel: ParallelConfig) -> int:
    """Return the number of ranks over which norms and layer inputs are split along the sequence."""
    return parallel.tensor_model_parallel_size if parallel.sequence_parallel else 1


def value_bytes(precision: PrecisionConfig) -> int:
    """Return the bytes of one weight or activation."""
    return BF16_BYTES if precision.bf16 else FP32_BYTES


def gradient_bytes(precision: PrecisionConfig) -> int:
    """Return the bytes of the gradient of one parameter, as it is accumulated and reduced."""
    return FP32_BYTES if precision.grad_reduce_in_fp32 else value_bytes(precision)
