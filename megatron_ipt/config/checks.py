"""What a training configuration must satisfy across its sections, all told at once before anything starts."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from typing import Any

from megatron_ipt.config.batch_checks import find_batch_problems
from megatron_ipt.config.layout import data_parallel_size, model_parallel_size
from megatron_ipt.config.precision_checks import find_precision_problems
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.errors import Problem

_CHOICES: dict[str, Sequence[str | None]] = {
    "faults.on_loss_spike": ("ignore", "stop", "skip", "roll_back"),
    "faults.on_nonfinite": ("stop", "skip", "roll_back"),
    "model.family": ("mistral", "llama"),
    "optimizer.optimizer": ("adam", "muon"),
    "parallel.recompute_granularity": (None, "full", "selective"),
    "precision.attention_backend": ("auto", "flash", "fused", "unfused"),
    "precision.fp8": (None, "hybrid", "e4m3"),
    "precision.fp8_recipe": ("tensorwise", "delayed", "blockwise"),
    "precision.transformer_impl": ("auto", "local", "transformer_engine"),
    "profile.tool": (None, "torch", "nsys"),
    "schedule.lr_decay_style": ("cosine", "WSD", "linear", "constant"),
    "schedule.lr_wsd_decay_style": ("minus_sqrt", "linear", "cosine", "exponential"),
    "tracking.wandb_mode": ("disabled", "offline", "online"),
}
_COUNTS = (
    "checkpoint.keep_every",
    "checkpoint.save_interval",
    "data.seq_length",
    "faults.hang_timeout_seconds",
    "faults.loss_spike_window",
    "model.ffn_hidden_size",
    "model.hidden_size",
    "model.kv_channels",
    "model.num_attention_heads",
    "model.num_layers",
    "model.num_query_groups",
    "model.sliding_window",
    "model.vocab_size",
    "parallel.context_parallel_size",
    "parallel.pipeline_model_parallel_size",
    "parallel.tensor_model_parallel_size",
    "profile.first_iteration",
    "schedule.lr_decay_iters",
    "schedule.lr_wsd_decay_iters",
    "training.eval_interval",
    "training.exit_interval",
    "training.global_batch_size",
    "training.log_interval",
    "training.micro_batch_size",
    "training.train_iters",
)
_BELOW_ONE = math.nextafter(1.0, 0.0)
_ABOVE_ZERO = math.nextafter(0.0, 1.0)
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(_COUNTS, (1, math.inf)),
    "checkpoint.keep_best": (0, math.inf),
    "checkpoint.keep_last": (0, math.inf),
    "faults.loss_spike_sigmas": (0.0, math.inf),
    "faults.most_anomalies": (0, math.inf),
    "model.attention_dropout": (0.0, _BELOW_ONE),
    "model.hidden_dropout": (0.0, _BELOW_ONE),
    "model.init_method_std": (0.0, math.inf),
    "model.layernorm_epsilon": (0.0, math.inf),
    "model.rotary_base": (_ABOVE_ZERO, math.inf),
    "optimizer.adam_beta1": (0.0, _BELOW_ONE),
    "optimizer.adam_beta2": (0.0, _BELOW_ONE),
    "optimizer.adam_eps": (_ABOVE_ZERO, math.inf),
    "optimizer.clip_grad": (0.0, math.inf),
    "optimizer.muon_momentum": (0.0, _BELOW_ONE),
    "optimizer.weight_decay": (0.0, math.inf),
    "schedule.lr_warmup_iters": (0, math.inf),
    "training.eval_iters": (0, math.inf),
    "training.seed": (0, 2**31 - 1),
}
"""Smallest and largest value of a setting, both allowed; a setting that may be unset is not checked then."""


def find_problems(config: PretrainConfig, world_size: int) -> list[Problem]:
    """Everything in which `config` cannot run on `world_size` ranks."""
    problems = [*_choices(config), *_sizes(config)]
    if problems:
        return problems  # the arithmetic below needs sane numbers
    return [
        *_model(config),
        *find_precision_problems(config),
        *_layout(config, world_size),
        *_data(config),
        *_schedule(config),
        *_optimizer(config),
    ]


def _choices(config: PretrainConfig) -> Iterator[Problem]:
    for key, allowed in _CHOICES.items():
        value = _value(config, key)
        if value not in allowed:
            names = [name for name in allowed if name is not None]
            nearest = difflib.get_close_matches(str(value), names, n=1, cutoff=0.0)[0]
            yield Problem(key, value, f"not one of {', '.join(names)}", f"did you mean {nearest}?")


def _sizes(config: PretrainConfig) -> Iterator[Problem]:
    for key, (low, high) in _RANGES.items():
        value = _value(config, key)
        if value is None or low <= value <= high:
            continue
        if low == 1:
            yield Problem(key, value, "must be at least 1", "set a positive number")
        else:
            yield Problem(key, value, f"must be {_described(low, high)}", "set a number in that range")


def _described(low: float, high: float) -> str:
    above = "greater than 0" if low == _ABOVE_ZERO else f"at least {low:g}"
    if high == math.inf:
        return above
    return f"{above} and less than 1" if high == _BELOW_ONE else f"{above} and at most {high:,}"


def _model(config: PretrainConfig) -> Iterator[Problem]:
    model, parallel = config.model, config.parallel
    tensor = parallel.tensor_model_parallel_size
    for name in ("num_attention_heads", "num_query_groups", "ffn_hidden_size", "vocab_size"):
        size = getattr(model, name)
        if size % tensor:
            fitting = [count for count in range(1, 65) if size % count == 0]
            yield Problem(
                "parallel.tensor_model_parallel_size",
                tensor,
                f"does not divide model.{name} = {size}",
                f"use one of {', '.join(map(str, fitting))}",
            )
    if model.num_attention_heads % model.num_query_groups:
        yield Problem(
            "model.num_query_groups",
            model.num_query_groups,
            f"does not divide num_attention_heads = {model.num_attention_heads}",
            "use a divisor of it",
        )
    if model.kv_channels is None and model.hidden_size % model.num_attention_heads:
        yield Problem(
            "model.num_attention_heads",
            model.num_attention_heads,
            f"does not divide hidden_size = {model.hidden_size}",
            "use a divisor of it, or set model.kv_channels",
        )


def _layout(config: PretrainConfig, world_size: int) -> Iterator[Problem]:
    parallel = config.parallel
    yield from _pipeline(config)
    yield from _sequence(config)
    if parallel.overlap_param_gather and not (parallel.use_distributed_optimizer and parallel.overlap_grad_reduce):
        yield Problem(
            "parallel.overlap_param_gather",
            True,
            "only the distributed optimizer with overlap_grad_reduce gathers parameters",
            "set use_distributed_optimizer=true and overlap_grad_reduce=true",
        )
    if world_size % model_parallel_size(parallel):
        yield Problem(
            "ranks",
            world_size,
            f"one copy of the model takes {model_parallel_size(parallel)} (tensor x pipeline x context)",
            "start a multiple of that with torchrun --nproc-per-node",
        )
    else:
        yield from find_batch_problems(config, data_parallel_size(parallel, world_size))


def _sequence(config: PretrainConfig) -> Iterator[Problem]:
    parallel, length = config.parallel, config.data.seq_length
    context = parallel.context_parallel_size
    slices = 2 * context if context > 1 else 1
    shards = parallel.tensor_model_parallel_size if parallel.sequence_parallel else 1
    if length % slices or (length // context) % shards:
        yield Problem(
            "data.seq_length",
            length,
            f"context_parallel_size cuts it into {slices}, sequence_parallel over {shards} ranks",
            f"use a multiple of {math.lcm(slices, context * shards)}",
        )
    if context > 1 and config.data.reset_attention_mask:
        yield Problem(
            "data.reset_attention_mask",
            True,
            "ranks that share a sequence see only their slices of it, and not where its documents end",
            "set context_parallel_size=1 (sequence_parallel shares long samples too), or switch it off",
        )


def _pipeline(config: PretrainConfig) -> Iterator[Problem]:
    parallel, layers = config.parallel, config.model.num_layers
    pipeline, virtual = parallel.pipeline_model_parallel_size, parallel.virtual_pipeline_model_parallel_size
    if virtual is not None and (pipeline < 2 or virtual < 2):
        yield Problem(
            "parallel.virtual_pipeline_model_parallel_size",
            virtual,
            "the interleaved schedule needs two pipeline ranks or more, with two chunks or more each",
            "leave it unset, or raise pipeline_model_parallel_size",
        )
    elif layers % (pipeline * (virtual or 1)):
        yield Problem(
            "parallel.pipeline_model_parallel_size",
            pipeline,
            f"model.num_layers = {layers} does not split into {pipeline * (virtual or 1)} equal chunks",
            "use sizes whose product divides the number of layers",
        )


def _data(config: PretrainConfig) -> Iterator[Problem]:
    data, model = config.data, config.model
    if not data.blend:
        yield Problem("data.blend", "(empty)", "there is nothing to read", "name at least one prefix")
    if data.seq_length > model.max_position_embeddings:
        yield Problem(
            "data.seq_length",
            data.seq_length,
            f"longer than model.max_position_embeddings = {model.max_position_embeddings}",
            "shorten the samples or raise that",
        )
    if data.reset_attention_mask and model.sliding_window is not None and model.sliding_window < data.seq_length:
        yield Problem(
            "data.reset_attention_mask",
            True,
            f"not together with a sliding window of {model.sliding_window} inside samples of {data.seq_length}",
            "switch one of them off",
        )
    if data.reset_position_ids and not data.reset_attention_mask:
        yield Problem(
            "data.reset_position_ids",
            True,
            "RoPE knows distances alone: while attention crosses document ends, restarted positions go unheard",
            "set data.reset_attention_mask=true as well, or leave both off",
        )
    if not is_split(data.split):
        yield Problem("data.split", data.split, "not up to three numbers", "write TRAIN,VALIDATION,TEST as 99,1,0")


def is_split(text: str) -> bool:
    """Whether `text` gives up to three shares, as 99,1,0."""
    shares = text.split(",")
    return 1 <= len(shares) <= 3 and all(map(_is_share, shares)) and 0 < sum(map(float, shares)) < math.inf


def _is_share(text: str) -> bool:
    try:
        return float(text) >= 0
    except ValueError:
        return False


def _schedule(config: PretrainConfig) -> Iterator[Problem]:
    schedule, optimizer = config.schedule, config.optimizer
    decay = schedule.lr_decay_iters or config.training.train_iters
    if not 0 <= schedule.lr_warmup_iters < decay:
        yield Problem(
            "schedule.lr_warmup_iters",
            schedule.lr_warmup_iters,
            f"must be shorter than the decay of {decay} iterations",
            "shorten it",
        )
    if not 0 <= optimizer.min_lr <= optimizer.lr:
        yield Problem("optimizer.min_lr", optimizer.min_lr, f"not between 0 and lr = {optimizer.lr}", "lower it")
    if schedule.lr_decay_style == "WSD" and not 0 < (schedule.lr_wsd_decay_iters or 0) <= decay:
        yield Problem(
            "schedule.lr_wsd_decay_iters",
            schedule.lr_wsd_decay_iters,
            f"WSD needs the length of its final decay, at most {decay} iterations",
            "set it",
        )


def _optimizer(config: PretrainConfig) -> Iterator[Problem]:
    if config.optimizer.optimizer == "muon" and config.parallel.use_distributed_optimizer:
        yield Problem(
            "optimizer.optimizer",
            "muon",
            "it orthogonalizes whole matrices, which the distributed optimizer would cut",
            "set parallel.use_distributed_optimizer=false and overlap_param_gather=false",
        )


def _value(config: PretrainConfig, key: str) -> Any:
    section, field = key.split(".")
    return getattr(getattr(config, section), field)
