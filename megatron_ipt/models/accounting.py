"""What a model costs: parameters, floating-point operations, bytes. No torch: a login node can ask.

Legend: h hidden size, f feed-forward size, q query heads x head width, k key-value heads x head width, v vocabulary,
s sequence length, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import ParallelConfig, PrecisionConfig


def parameter_count(model: ModelConfig) -> int:
    """Parameters of the whole model; a tied LM head is counted once."""
    heads = 2 if model.untie_embeddings_and_output_weights else 1
    layers = model.num_layers * (_layer_matrices(model) + 2 * model.hidden_size)
    return layers + model.hidden_size + heads * model.vocab_size * model.hidden_size


def parameter_count_of_rank(model: ModelConfig, parallel: ParallelConfig, stage: int = 0) -> int:
    """Parameters that a rank of pipeline `stage` holds.

    Matrices and embeddings are cut over the tensor ranks, norms are not; a tied embedding lies in the first stage and
    again in the last.
    """
    tensor, stages = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    is_first, is_last = stage == 0, stage == stages - 1
    embeddings = is_first + (is_last and (model.untie_embeddings_and_output_weights or not is_first))
    matrices = model.num_layers // stages * _layer_matrices(model) + embeddings * model.vocab_size * model.hidden_size
    norms = (2 * model.num_layers // stages + is_last) * model.hidden_size
    return matrices // tensor + norms


def flops_per_token(model: ModelConfig, seq_length: int, *, causal: bool = True) -> float:
    """Floating-point operations of forward and backward pass per token; a multiplication with its addition counts two.

    With `causal`, attention is counted only where a token may look (as Mistral's window allows); without, over the
    whole square, as an implementation that masks afterwards computes it.
    """
    matrices = model.num_layers * _layer_matrices(model) + model.vocab_size * model.hidden_size
    seen = _mean_tokens_seen(seq_length, model.sliding_window) if causal else seq_length
    attention = 2 * model.num_layers * model.num_attention_heads * model.head_dim * seen  # q k^T, and weights times v
    forward = 2 * (matrices + attention)
    return 3 * forward  # backward: once for the inputs, once for the weights


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
    stage: int = 0,
) -> MemoryEstimate:
    """Bytes on a rank of pipeline `stage` in the course of a step, with megatron-core's Adam and fused attention.

    bf16 weights have fp32 gradients, master weights and moments; fp32 weights are their own master.
    """
    parameters = parameter_count_of_rank(model, parallel, stage)
    shards = data_parallel_size if parallel.use_distributed_optimizer else 1
    return MemoryEstimate(
        weights_bytes=parameters * (2 if precision.bf16 else 4),
        gradients_bytes=parameters * 4,
        optimizer_bytes=parameters * (12 if precision.bf16 else 8) // shards,
        activations_bytes=_activations(model, parallel, precision, micro_batch_size * seq_length, stage),
    )


def _layer_matrices(model: ModelConfig) -> int:
    """h(q + 2k) + qh + 3hf."""
    queries = model.num_attention_heads * model.head_dim
    keys = model.num_query_groups * model.head_dim
    return model.hidden_size * (2 * queries + 2 * keys + 3 * model.ffn_hidden_size)


def _mean_tokens_seen(seq_length: int, window: int | None) -> float:
    """Tokens that a token attends to, itself included, on average over the sequence."""
    width = min(window or seq_length, seq_length)
    return (width * (width + 1) / 2 + (seq_length - width) * width) / seq_length


def _activations(
    model: ModelConfig, parallel: ParallelConfig, precision: PrecisionConfig, tokens: int, stage: int
) -> int:
    """What the backward pass keeps of `tokens` tokens, for as many micro-batches as the stage has in flight (1F1B)."""
    tensor, stages = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    width = 2 if precision.bf16 else 4
    queries = model.num_attention_heads * model.head_dim
    keys = model.num_query_groups * model.head_dim
    norms = 4 * model.hidden_size / (tensor if parallel.sequence_parallel else 1)  # in and out of both norms
    cut = (2 * queries + 2 * keys + 3 * model.ffn_hidden_size) / tensor  # q, k, v, context; gate, up and their product
    layers = model.num_layers // stages * tokens * (norms + cut) * width
    logits = tokens * model.vocab_size / tensor * (width + 4) if stage == stages - 1 else 0
    return int(layers * (stages - stage) + logits)
