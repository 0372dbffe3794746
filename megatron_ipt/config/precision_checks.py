"""Checks of the number formats against the optimizer, the layer implementation and the sizes of the model."""

from __future__ import annotations

from collections.abc import Iterator

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.errors import Problem

FP8_MULTIPLE = 16
"""The dimensions of FP8 matrix products must be multiples of this (Transformer Engine 2,
`get_align_size_for_quantization`)."""


def find_precision_problems(config: PretrainConfig) -> Iterator[Problem]:
    """Find every setting of `config` that does not work with its number formats."""
    precision, parallel = config.precision, config.parallel
    if precision.fp8_param_gather and (precision.fp8 is None or parallel.use_distributed_optimizer is False):
        yield Problem(
            "precision.fp8_param_gather",
            True,
            "requires FP8 and the distributed optimizer, which keeps the master weights",
            "set precision.fp8 and parallel.use_distributed_optimizer=true, or turn it off",
        )
    if precision.fp8 is None:
        return
    if not precision.bf16:
        reason = "requires bf16, in which everything but the matrix products is computed"
        yield Problem("precision.fp8", precision.fp8, reason, "set precision.bf16=true")
    if precision.transformer_impl == "local":
        yield Problem(
            "precision.fp8",
            precision.fp8,
            "megatron-core's local layers do not support FP8",
            "set precision.transformer_impl=auto, or fp8=null",
        )
    yield from _fp8_sizes(config)


def _fp8_sizes(config: PretrainConfig) -> Iterator[Problem]:
    model, parallel = config.model, config.parallel
    for name, size in _sizes_over_tensor_ranks(model):
        if size % (tensor := parallel.tensor_model_parallel_size) == 0 and (size // tensor) % FP8_MULTIPLE:
            yield _misaligned(name, size, tensor, _fitting_tensor_sizes(model))
    if model.hidden_size % FP8_MULTIPLE:
        yield _misaligned("model.hidden_size", model.hidden_size, 1, [])
    tokens = config.training.micro_batch_size * config.data.seq_length
    ranks = parallel.context_parallel_size * (parallel.tensor_model_parallel_size if parallel.sequence_parallel else 1)
    if tokens % ranks == 0 and (tokens // ranks) % FP8_MULTIPLE:
        yield Problem(
            "training.micro_batch_size",
            config.training.micro_batch_size,
            f"with samples of {config.data.seq_length} tokens, a rank multiplies {tokens // ranks} rows, which FP8 "
            f"needs to be a multiple of {FP8_MULTIPLE}",
            f"make micro_batch_size x seq_length a multiple of {FP8_MULTIPLE * ranks}",
        )


def _sizes_over_tensor_ranks(model: ModelConfig) -> list[tuple[str, int]]:
    queries = model.num_attention_heads * model.head_dim
    return [
        ("model.ffn_hidden_size", model.ffn_hidden_size),
        ("model.num_attention_heads x head dimension", queries),
        ("model.num_query_groups x head dimension", model.num_query_groups * model.head_dim),
    ]


def _misaligned(field: str, size: int, tensor: int, fitting: list[int]) -> Problem:
    unit = FP8_MULTIPLE * tensor
    nearest = [candidate for candidate in (size // unit * unit, -(-size // unit) * unit) if candidate]
    where = f"{size // tensor} on each of {tensor} tensor ranks" if tensor > 1 else "it"
    layouts = f", or tensor_model_parallel_size {' or '.join(map(str, fitting))}" if fitting else ""
    return Problem(
        field,
        size,
        f"{where} is not a multiple of {FP8_MULTIPLE}, as FP8 matrix products require",
        f"use {' or '.join(map(str, nearest))}{layouts}, or precision.fp8=null",
    )


def _fitting_tensor_sizes(model: ModelConfig) -> list[int]:
    """Return the tensor-parallel sizes at which the whole model can run in FP8."""
    divided = (model.num_attention_heads, model.num_query_groups)
    sizes = [size for _, size in _sizes_over_tensor_ranks(model)]
    return [
        tensor
        for tensor in range(1, model.num_query_groups + 1)
        if not any(count % tensor for count in divided) and not any(size % (FP8_MULTIPLE * tensor) for size in sizes)
    ]
