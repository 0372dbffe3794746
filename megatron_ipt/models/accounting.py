"""Parameters and floating-point operations of a model. Does not import torch, so that planning works on login nodes."""

from __future__ import annotations

from megatron_ipt.config.layout import layers_of_stages, padded_vocab_size
from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import ParallelConfig
from megatron_ipt.models.model_family import load_family


def parameter_count(model: ModelConfig) -> int:
    """Return the number of parameters of the whole model; a tied LM head is counted once."""
    embeddings = 2 if model.untie_embeddings_and_output_weights else 1
    layers = model.num_layers * load_family(model.family).layer_size(model).parameters
    return layers + model.hidden_size + embeddings * model.vocab_size * model.hidden_size


def parameter_count_of_rank(model: ModelConfig, parallel: ParallelConfig, stage: int = 0) -> int:
    """Return the number of parameters on a rank of pipeline `stage`.

    Matrices, biases and embeddings are split over the tensor ranks, norms are not; a tied embedding is held by both the
    first and the last stage.
    """
    tensor, stages = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    is_first, is_last = stage == 0, stage == stages - 1
    embeddings = is_first + (is_last and (model.untie_embeddings_and_output_weights or not is_first))
    layer, layers = load_family(model.family).layer_size(model), layers_of_stages(model, parallel)[stage]
    split = (
        layers * (layer.matrices + layer.biases) + embeddings * padded_vocab_size(model, parallel) * model.hidden_size
    )
    return split // tensor + layers * layer.norms + is_last * model.hidden_size


def flops_per_token(model: ModelConfig, seq_length: int, *, causal: bool = True) -> float:
    """Return the floating-point operations per token of forward and backward pass; a multiply-add counts as two.

    Args:
        model: the architecture.
        seq_length: tokens per sample.
        causal: count attention to visible tokens only; otherwise to all tokens of the sample, as in an implementation
            that computes all scores and masks them.
    """
    layer = load_family(model.family).layer_size(model)
    matrices = model.num_layers * layer.matrices + model.vocab_size * model.hidden_size
    visible = _mean_visible_tokens(seq_length, model.sliding_window) if causal else seq_length
    attention = 2 * model.num_layers * layer.attention_width * visible  # q k^T, and weights times v
    forward = 2 * (matrices + attention)
    return 3 * forward  # backward: once for the inputs, once for the weights


def _mean_visible_tokens(seq_length: int, window: int | None) -> float:
    """Return the number of tokens that a token attends to, including itself, averaged over the sample."""
    width = min(window or seq_length, seq_length)
    return (width * (width + 1) / 2 + (seq_length - width) * width) / seq_length
