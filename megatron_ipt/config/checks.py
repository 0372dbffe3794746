"""Checks of a training configuration across its sections; all problems are reported at once, before anything starts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from megatron_ipt.config.batch_checks import find_batch_problems
from megatron_ipt.config.layout import (
    chunks_per_stage,
    data_parallel_size,
    layers_of_stages,
    padded_vocab_size,
    ranks_per_replica,
)
from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.precision_checks import find_precision_problems
from megatron_ipt.config.pretrain import ParallelConfig, PretrainConfig
from megatron_ipt.config.speed_checks import find_speed_problems
from megatron_ipt.errors import Problem


def find_problems(config: PretrainConfig, world_size: int) -> list[Problem]:
    """Find every reason why `config` cannot run on `world_size` ranks."""
    return [
        *_model(config),
        *find_precision_problems(config),
        *find_speed_problems(config),
        *_layout(config, world_size),
        *_data(config),
        *_schedule(config),
        *_optimizer(config),
        *_local_checkpoints(config),
    ]


def find_shape_problems(model: ModelConfig) -> Iterator[Problem]:
    """Find sizes of `model` that are inconsistent with one another."""
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


def _model(config: PretrainConfig) -> Iterator[Problem]:
    model, parallel = config.model, config.parallel
    tensor = parallel.tensor_model_parallel_size
    for name in ("num_attention_heads", "num_query_groups", "ffn_hidden_size"):
        size = getattr(model, name)
        if size % tensor:
            fitting = [count for count in range(1, 65) if size % count == 0]
            yield Problem(
                "parallel.tensor_model_parallel_size",
                tensor,
                f"does not divide model.{name} = {size}",
                f"use one of {', '.join(map(str, fitting))}",
            )
    rows = padded_vocab_size(model, parallel) // tensor
    if model.vocab_size <= rows * (tensor - 1):
        yield Problem(
            "model.vocab_size",
            model.vocab_size,
            f"on {tensor} tensor ranks with {rows} rows each, the last rank would hold only padding",
            "lower parallel.tensor_model_parallel_size or parallel.make_vocab_size_divisible_by",
        )
    yield from find_shape_problems(model)
    if model.rope_type == "default" and model.rope_factor != 1:
        yield Problem(
            "model.rope_factor",
            model.rope_factor,
            "has no effect with model.rope_type = default",
            "set model.rope_type to linear, llama3 or yarn",
        )


def _layout(config: PretrainConfig, world_size: int) -> Iterator[Problem]:
    parallel = config.parallel
    yield from _pipeline(config)
    yield from _sequence(config)
    if parallel.overlap_param_gather and False in (parallel.use_distributed_optimizer, parallel.overlap_grad_reduce):
        yield Problem(
            "parallel.overlap_param_gather",
            True,
            "requires the distributed optimizer with overlap_grad_reduce",
            "leave use_distributed_optimizer and overlap_grad_reduce unset, or set them to true",
        )
    if world_size % ranks_per_replica(parallel):
        yield Problem(
            "ranks",
            world_size,
            f"not a multiple of the {ranks_per_replica(parallel)} ranks of one replica (tensor x pipeline x context)",
            f"start a multiple of {ranks_per_replica(parallel)} ranks with torchrun --nproc-per-node",
        )
    else:
        yield from find_batch_problems(config, data_parallel_size(parallel, world_size))


def _sequence(config: PretrainConfig) -> Iterator[Problem]:
    parallel, length = config.parallel, config.data.seq_length
    context = parallel.context_parallel_size
    slices = 2 * context if context > 1 else 1  # two per rank, one from each end, to balance causal attention
    shards = parallel.tensor_model_parallel_size if parallel.sequence_parallel else 1
    if length % slices or (length // context) % shards:
        yield Problem(
            "data.seq_length",
            length,
            f"context_parallel_size divides it into {slices} slices, sequence_parallel over {shards} ranks",
            f"use a multiple of {math.lcm(slices, context * shards)}",
        )


def _pipeline(config: PretrainConfig) -> Iterator[Problem]:
    parallel, layers = config.parallel, config.model.num_layers
    pipeline, virtual = parallel.pipeline_model_parallel_size, parallel.virtual_pipeline_model_parallel_size
    if virtual is not None and (pipeline < 2 or virtual < 2):
        yield Problem(
            "parallel.virtual_pipeline_model_parallel_size",
            virtual,
            "the interleaved schedule needs at least two pipeline ranks with at least two chunks each",
            "leave it unset, or raise pipeline_model_parallel_size",
        )
    elif (uneven := _uneven_stages(config)) is not None:
        yield uneven
    elif not uneven_sizes(parallel) and layers % (pipeline * (virtual or 1)):
        yield Problem(
            "parallel.pipeline_model_parallel_size",
            pipeline,
            f"model.num_layers = {layers} does not split into {pipeline * (virtual or 1)} equal chunks",
            "use sizes whose product divides the number of layers, or set num_layers_in_first_pipeline_stage or "
            "num_layers_in_last_pipeline_stage",
        )


def _uneven_stages(config: PretrainConfig) -> Problem | None:
    """Find a problem with the numbers of layers that are set for the first and last pipeline rank; None without one."""
    parallel, virtual = config.parallel, chunks_per_stage(config.parallel)
    if not (sizes := uneven_sizes(parallel)):
        return None
    field, value = next(iter(sizes.items()))
    if parallel.pipeline_model_parallel_size == 1:
        reason = "has no effect: the only pipeline rank has all layers"
        return Problem(f"parallel.{field}", value, reason, "leave it unset")
    try:
        stages = layers_of_stages(config.model, parallel)
    except ValueError as error:
        return Problem(
            f"parallel.{field}",
            value,
            f"of model.num_layers = {config.model.num_layers}, it leaves {error}, which is not an equal number each",
            "leave a number of layers that divides evenly over the other pipeline ranks, at least one each",
        )
    if any(layers % virtual for layers in stages):
        return Problem(
            f"parallel.{field}",
            value,
            f"the pipeline ranks have {', '.join(map(str, stages))} layers, which do not divide into {virtual} chunks",
            f"use multiples of virtual_pipeline_model_parallel_size = {virtual}",
        )
    return None


def uneven_sizes(parallel: ParallelConfig) -> dict[str, int]:
    """Return the settings, by name, that set the number of layers of the first or the last pipeline rank."""
    names = ("num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage")
    return {name: value for name in names if (value := getattr(parallel, name)) is not None}


def _data(config: PretrainConfig) -> Iterator[Problem]:
    data, model = config.data, config.model
    if not data.blend:
        yield Problem("data.blend", "(empty)", "there are no datasets to train on", "give at least one prefix")
    if data.seq_length > model.max_position_embeddings:
        yield Problem(
            "data.seq_length",
            data.seq_length,
            f"longer than model.max_position_embeddings = {model.max_position_embeddings}",
            "lower seq_length, or raise max_position_embeddings",
        )
    if data.reset_position_ids and not data.reset_attention_mask:
        yield Problem(
            "data.reset_position_ids",
            True,
            "has no effect: RoPE is relative, so restarted positions matter only where attention is reset as well",
            "set data.reset_attention_mask=true as well, or leave both off",
        )
    names = [entry.name for entry in data.validation_sets]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        yield Problem("data.validation_sets", ", ".join(repeated), "two sets have this name", "rename one of them")
    if names and not config.training.eval_iters:
        reason = "has no effect: there is no validation with training.eval_iters = 0"
        remedy = "raise eval_iters, or remove the sets"
        yield Problem("data.validation_sets", ", ".join(names), reason, remedy)
    if not is_split(data.split):
        reason = "not one to three numbers >= 0"
        yield Problem("data.split", data.split, reason, "write TRAIN,VALIDATION,TEST, such as 99,1,0")


def is_split(text: str) -> bool:
    """Return whether `text` holds one to three shares, not all zero, such as 99,1,0."""
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
            f"must be less than the {decay} iterations after which the decay ends",
            "lower it",
        )
    if not 0 <= optimizer.min_lr <= optimizer.lr:
        yield Problem("optimizer.min_lr", optimizer.min_lr, f"not between 0 and lr = {optimizer.lr}", "lower it")
    if schedule.lr_decay_style == "WSD" and not 0 < (schedule.lr_wsd_decay_iters or 0) <= decay:
        yield Problem(
            "schedule.lr_wsd_decay_iters",
            schedule.lr_wsd_decay_iters,
            f"WSD needs a final decay of 1 to {decay} iterations",
            "set it within that range",
        )


def _optimizer(config: PretrainConfig) -> Iterator[Problem]:
    parallel = config.parallel
    if config.optimizer.optimizer == "muon" and (parallel.use_distributed_optimizer or parallel.overlap_param_gather):
        yield Problem(
            "optimizer.optimizer",
            "muon",
            "it orthogonalizes whole matrices, which the distributed optimizer would split",
            "set parallel.use_distributed_optimizer=false and overlap_param_gather=false",
        )


def _local_checkpoints(config: PretrainConfig) -> Iterator[Problem]:
    rule = config.checkpoint
    if rule.local_folder is None and rule.local_interval is not None:
        reason = "has no effect without a folder for local checkpoints"
        yield Problem(
            "checkpoint.local_interval", rule.local_interval, reason, "set checkpoint.local_folder, or leave it unset"
        )
    if rule.local_folder is not None and rule.local_interval is None:
        reason = "nothing is saved there without an interval"
        yield Problem(
            "checkpoint.local_folder", rule.local_folder, reason, "set checkpoint.local_interval, or leave it unset"
        )
    if rule.local_folder is not None and not Path(rule.local_folder).is_absolute():
        yield Problem(
            "checkpoint.local_folder",
            rule.local_folder,
            "is not an absolute path (variables and ~ are not expanded)",
            "name a folder on the nodes' own disks, such as /scratch/checkpoints",
        )
    if rule.local_interval is not None and rule.local_interval >= rule.save_interval:
        yield Problem(
            "checkpoint.local_interval",
            rule.local_interval,
            f"must be less than {rule.save_interval} (checkpoint.save_interval): local checkpoints are for the "
            "iterations between shared ones",
            "lower it, or raise checkpoint.save_interval",
        )
