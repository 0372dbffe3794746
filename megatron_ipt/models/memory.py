"""What a rank needs memory for. No torch: a login node can ask.

Legend, as in accounting: h hidden size, f feed-forward size, q query heads x head width, k key-value heads x head
width, v vocabulary, s sequence length.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import ParallelConfig, PrecisionConfig
from megatron_ipt.models.accounting import parameter_count_of_rank

_FP32 = 4
_BF16 = 2


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one rank."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it, without what the allocator loses."""
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes + self.activations_bytes


def memory_of_rank(
    model: ModelConfig,
    parallel: ParallelConfig,
    precision: PrecisionConfig,
    *,
    micro_batch_size: int,
    seq_length: int,
    data_parallel_size: int = 1,
    num_microbatches: int | None = None,
    stage: int = 0,
) -> MemoryEstimate:
    """Bytes on a rank of pipeline `stage` in the course of a step, with megatron-core's Adam.

    bf16 weights have fp32 gradients, master weights and moments; fp32 weights are their own master. Of a step of
    `num_microbatches` a stage of the 1F1B schedule holds as many as there are stages from it to the last. With full
    recomputation a layer keeps its input only, and one layer at a time the rest. On top comes the larger of what one
    layer's backward pass and what the LM head needs for the moment.
    """
    parameters = parameter_count_of_rank(model, parallel, stage)
    stages = parallel.pipeline_model_parallel_size
    context = parallel.context_parallel_size
    shards = data_parallel_size * context if parallel.use_distributed_optimizer else 1
    in_flight = min(stages - stage, num_microbatches or stages)
    tokens = micro_batch_size * seq_length // context
    layers = model.num_layers // stages
    layer = layer_activations_per_token(model, parallel, precision)
    momentary = layer_gradients_per_token(model, parallel, precision)
    kept = layers * layer
    if parallel.recompute_granularity == "full":
        kept, momentary = layers * _layer_input(model, parallel, precision), layer + momentary
    last = head_bytes(model, parallel, precision, tokens) if stage == stages - 1 else 0
    return MemoryEstimate(
        weights_bytes=parameters * _width(precision),
        gradients_bytes=parameters * _FP32,
        optimizer_bytes=parameters * (12 if precision.bf16 else 8) // shards,
        activations_bytes=int(tokens * in_flight * kept + max(tokens * momentary, last)),
    )


def layer_activations_per_token(model: ModelConfig, parallel: ParallelConfig, precision: PrecisionConfig) -> float:
    """Bytes that the backward pass of one layer keeps of each token.

    With Transformer Engine's fused kernels: input and output of both norms; the projection of queries, keys and values
    in one piece, queries and keys again after RoPE, the context; gate, up and their product. megatron-core's own layers
    keep more: each norm its normalized input as well, in fp32; keys and values spread over the query heads, or, where
    there are as many of them, within the projection; the parts of SwiGLU.
    """
    tensor = parallel.tensor_model_parallel_size
    width = _width(precision)
    queries = model.num_attention_heads * model.head_dim
    keys = model.num_query_groups * model.head_dim
    shared = tensor if parallel.sequence_parallel else 1
    if precision.transformer_impl != "local":
        norms = width * 4 * model.hidden_size
        attention = width * (3 * queries + 3 * keys) + _FP32 * model.num_attention_heads
        return norms / shared + (attention + width * 3 * model.ffn_hidden_size) / tensor
    norms = _FP32 * 4 * model.hidden_size + width * 2 * model.hidden_size
    attention = width * (4 if keys < queries else 6) * queries + _FP32 * model.num_attention_heads
    return norms / shared + (attention + width * 5 * model.ffn_hidden_size) / tensor


def layer_gradients_per_token(model: ModelConfig, parallel: ParallelConfig, precision: PrecisionConfig) -> float:
    """Bytes of each token that the backward pass of one layer needs besides what the forward pass kept.

    The gradients of gate, up and their product, of the layer's output and of its input.
    """
    tensor, width = parallel.tensor_model_parallel_size, _width(precision)
    return width * (3 * model.ffn_hidden_size / tensor + 2 * model.hidden_size)


def head_bytes(model: ModelConfig, parallel: ParallelConfig, precision: PrecisionConfig, tokens: int) -> float:
    """Bytes of the last norm, the softmax in fp32, the gradients of logits and of the LM head's weight."""
    tensor, width = parallel.tensor_model_parallel_size, _width(precision)
    shared = tensor if parallel.sequence_parallel else 1
    logits = _FP32 + (_BF16 if precision.bf16 else 0)  # in fp32 the gradient takes the softmax's place
    per_token = width * 2 * model.hidden_size / shared + logits * model.vocab_size / tensor
    return tokens * per_token + width * model.vocab_size * model.hidden_size / tensor


def _layer_input(model: ModelConfig, parallel: ParallelConfig, precision: PrecisionConfig) -> float:
    shared = parallel.tensor_model_parallel_size if parallel.sequence_parallel else 1
    return _width(precision) * model.hidden_size / shared


def _width(precision: PrecisionConfig) -> int:
    return _BF16 if precision.bf16 else _FP32
