"""Checks of combinations of settings that save time or memory; the device is checked when the run starts."""

from __future__ import annotations

from collections.abc import Iterator

from megatron_ipt.config.layout import chunks_per_stage, layers_of_stages
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.errors import Problem


def find_speed_problems(config: PretrainConfig) -> Iterator[Problem]:
    """Find conflicts of recomputation, communication, CUDA graphs and optimizer formats with other settings."""
    yield from _recomputation(config)
    yield from _communication(config)
    yield from _bf16_layers(config)
    yield from _cuda_graphs(config)
    yield from _optimizer_formats(config)


def _recomputation(config: PretrainConfig) -> Iterator[Problem]:
    parallel = config.parallel
    granularity = parallel.recompute_granularity
    for name, needed in (
        ("recompute_method", "full"),
        ("recompute_num_layers", "full"),
        ("recompute_modules", "selective"),
    ):
        if (value := getattr(parallel, name)) is not None and granularity != needed:
            reason = f"it has no effect with recompute_granularity = {granularity}"
            yield Problem(f"parallel.{name}", value, reason, f"leave it unset, or set recompute_granularity={needed}")
    fp8 = config.precision
    if "layernorm" in (parallel.recompute_modules or []) and fp8.fp8 is not None and fp8.fp8_recipe == "delayed":
        reason = "norms cannot be recomputed with FP8's delayed scaling, whose history would count them twice"
        yield Problem("parallel.recompute_modules", "layernorm", reason, "remove it, or use a different fp8_recipe")
    layers = _smallest_chunk(config)
    if granularity == "full" and layers is not None and (parallel.recompute_num_layers or 1) > layers:
        reason = f"the smallest model chunk of a pipeline rank has {layers} layers"
        yield Problem("parallel.recompute_num_layers", parallel.recompute_num_layers, reason, f"use {layers} at most")


def _smallest_chunk(config: PretrainConfig) -> int | None:
    """Return the layers of the smallest model chunk; None if they cannot be divided, which is reported elsewhere."""
    try:
        layers = layers_of_stages(config.model, config.parallel)
    except ValueError:
        return None
    return min(layers) // chunks_per_stage(config.parallel)


def _communication(config: PretrainConfig) -> Iterator[Problem]:
    parallel = config.parallel
    if parallel.average_in_collective and config.training.calculate_per_token_loss:
        reason = "with training.calculate_per_token_loss gradients are divided by the tokens of all ranks, not averaged"
        yield Problem("parallel.average_in_collective", True, reason, "switch one of them off")
    if parallel.tp_comm_overlap and (parallel.tensor_model_parallel_size == 1 or parallel.sequence_parallel is False):
        reason = "it overlaps the communication of sequence parallelism between several tensor-parallel ranks"
        yield Problem(
            "parallel.tp_comm_overlap",
            True,
            reason,
            "set tensor_model_parallel_size to 2 or more with sequence_parallel=true, or switch it off",
        )


def _bf16_layers(config: PretrainConfig) -> Iterator[Problem]:
    precision = config.precision
    if not precision.first_last_layers_bf16:
        return
    if precision.fp8 is None or precision.fp8_recipe == "delayed":
        reason = "no layer is in FP8" if precision.fp8 is None else "delayed scaling does not support it"
        remedy = "set precision.fp8 with an fp8_recipe other than delayed, or switch it off"
        yield Problem("precision.first_last_layers_bf16", True, reason, remedy)
    max_layers = config.model.num_layers // config.parallel.pipeline_model_parallel_size
    for name in ("num_layers_at_start_in_bf16", "num_layers_at_end_in_bf16"):
        if (value := getattr(precision, name)) > max_layers:
            reason, remedy = f"a pipeline rank has {max_layers} layers", f"use {max_layers} at most"
            yield Problem(f"precision.{name}", value, reason, remedy)


def _cuda_graphs(config: PretrainConfig) -> Iterator[Problem]:
    if config.precision.cuda_graph_impl == "none":
        return
    for key, is_wrong, reason in (
        ("parallel.recompute_granularity", config.parallel.recompute_granularity == "full", "recomputes whole layers"),
        ("data.reset_attention_mask", config.data.reset_attention_mask, "makes shapes differ between batches"),
        (
            "model.hidden_dropout",
            config.model.hidden_dropout + config.model.attention_dropout > 0,
            "draws from generators that are seeded again in each step",
        ),
    ):
        if is_wrong:
            section, name = key.split(".")
            value = getattr(getattr(config, section), name)
            reason = f"it {reason}, which CUDA graphs of layers (precision.cuda_graph_impl = local) do not support"
            yield Problem(key, value, reason, "switch it off, or set precision.cuda_graph_impl=none")


def _optimizer_formats(config: PretrainConfig) -> Iterator[Problem]:
    optimizer = config.optimizer
    if not optimizer.use_precision_aware_optimizer:
        dtypes = ("main_params_dtype", "exp_avg_dtype", "exp_avg_sq_dtype")
        changed = {name: value for name in dtypes if (value := getattr(optimizer, name)) != "fp32"}
        if optimizer.optimizer_cpu_offload:
            changed["optimizer_cpu_offload"] = True
        for name, value in changed.items():
            reason, remedy = "requires the precision-aware optimizer", "set use_precision_aware_optimizer=true"
            yield Problem(f"optimizer.{name}", value, reason, f"{remedy}, or leave it unset")
        return
    required = {
        "optimizer.optimizer=adam": optimizer.optimizer != "adam",
        "parallel.use_distributed_optimizer=true": config.parallel.use_distributed_optimizer is False,
        "precision.bf16=true": not config.precision.bf16,
    }
    if missing := [setting for setting, is_missing in required.items() if is_missing]:
        reason = "it requires Adam, the distributed optimizer and bf16 weights"
        yield Problem("optimizer.use_precision_aware_optimizer", True, reason, f"set {' and '.join(missing)}")
    if optimizer.optimizer_cpu_offload and config.precision.fp8_param_gather:
        # megatron-core (0.16) creates the offloaded state with a step on random gradients, which changes FP8 weights
        reason = "not supported with weights in FP8 (precision.fp8_param_gather)"
        yield Problem("optimizer.optimizer_cpu_offload", True, reason, "switch one of them off")
