"""What a model costs: parameters and floating-point operations. No torch: a login node can ask.

Legend: h hidden size, f feed-forward size, q query heads x head width, k key-value heads x head width, v vocabulary,
s sequence length, L layers.
"""

from __future__ import annotations

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import ParallelConfig


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


def _layer_matrices(model: ModelConfig) -> int:
    """h(q + 2k) + qh + 3hf."""
    queries = model.num_attention_heads * model.head_dim
    keys = model.num_query_groups * model.head_dim
    return model.hidden_size * (2 * queries + 2 * keys + 3 * model.ffn_hidden_size)


def _mean_tokens_seen(seq_length: int, window: int | None) -> float:
    """Tokens that a token attends to, itself included, on average over the sequence."""
    width = min(window or seq_length, seq_length)
    return (width * (width + 1) / 2 + (seq_length - width) * width) / seq_length
