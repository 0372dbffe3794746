"""The plan: layouts that fit, with memory, speed, duration and cost, or the changes that make one fit."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from megatron_ipt.config.layout import chunks_per_stage
from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.model_presets import MODEL_PRESETS
from megatron_ipt.config.plan import PlanConfig
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.models.accounting import flops_per_token, parameter_count
from megatron_ipt.models.memory import MemoryEstimate, checkpoint_host_bytes, memory_of_rank
from megatron_ipt.models.workload import Workload
from megatron_ipt.planning.layouts import Layout, check_split, find_layouts, find_splits
from megatron_ipt.planning.machine import Machine, describe_machine
from megatron_ipt.planning.step_time import StepTime, estimate_step

_GIB = 2**30
_MAX_GPUS = 4096
_SATURATING_TOKENS = 16_384  # per micro-batch; more do not make matrix products faster and cost memory


@dataclass(frozen=True)
class Estimate:
    """One layout with its estimated memory and speed.

    Attributes:
        seq_length: tokens per sample.
        memory: memory of the rank that needs most.
        step: time of a step, in seconds.
        pipeline_idle_share: share of a step in which a pipeline stage is idle.
        communication_share: share of a step spent in communication that is not overlapped with computation.
        checkpoint_host_bytes: host memory of a node needed while a checkpoint is written.
        tokens_per_second: throughput of all GPUs together.
        days: duration of the run; None if the number of tokens is not given.
        cost: cost of the run, in the currency of `cost_per_gpu_hour`; None if that or the tokens are not given.
    """

    layout: Layout
    seq_length: int
    memory: MemoryEstimate
    step: StepTime
    pipeline_idle_share: float
    communication_share: float
    checkpoint_host_bytes: int
    tokens_per_second: float
    days: float | None
    cost: float | None


@dataclass(frozen=True)
class Plan:
    """The layouts that fit, fastest first, and what they have in common."""

    parameters: int
    flops_per_token: float
    machine: Machine
    estimates: Sequence[Estimate]


def make_plan(config: PlanConfig) -> Plan:
    """Find the best micro-batch for each split of the model, with and without recomputation.

    Where a split does not fit without, it is also tried with the recomputation of some layers.

    Raises:
        UserError: there is no model, or no layout divides or fits; the error suggests sizes that do.
    """
    _check(config)
    machine = describe_machine(config)
    estimates = [_estimate(config, machine, layout) for layout in find_layouts(config)]
    if not estimates:
        raise UserError.of(_explain_division(config))
    fitting = [estimate for estimate in estimates if estimate.memory.total_bytes <= machine.usable_bytes]
    if not fitting:
        raise UserError.of([_explain_memory(config, machine, estimates)])
    kept = {_split_of(estimate.layout) for estimate in fitting if not estimate.layout.recompute}
    for layout in [estimate.layout for estimate in fitting if estimate.layout.recompute]:
        if _split_of(replace(layout, recompute=False)) not in kept:
            fitting += [_estimate(config, machine, some) for some in _recompute_least(config, machine, layout)]
    best: dict[tuple[object, ...], Estimate] = {}
    for estimate in sorted(fitting, key=_sort_key):
        best.setdefault(_split_of(estimate.layout), estimate)
    return Plan(
        parameter_count(config.model),
        flops_per_token(config.model, config.seq_length),
        machine,
        sorted(best.values(), key=lambda estimate: -estimate.tokens_per_second),
    )


def _sort_key(estimate: Estimate) -> tuple[float, ...]:
    """Sort fast layouts first; among layouts within 1%, those that split the model least, then large micro-batches."""
    layout, samples = estimate.layout, estimate.layout.micro_batch_size
    tensor, context = layout.tensor_model_parallel_size, layout.context_parallel_size
    split = tensor * layout.pipeline_model_parallel_size * context
    chunks = chunks_per_stage(layout.parallel)
    missing = max(0, _SATURATING_TOKENS - samples * estimate.seq_length // context)
    return -round(100 * math.log(estimate.tokens_per_second)), split, chunks, tensor, context, missing, samples


def _split_of(layout: Layout) -> tuple[object, ...]:
    """Return everything but the micro-batch size and the number of recomputed layers."""
    return (
        layout.tensor_model_parallel_size,
        layout.pipeline_model_parallel_size,
        layout.virtual_pipeline_model_parallel_size,
        layout.context_parallel_size,
        layout.recompute,
        layout.recompute_num_layers is not None,
    )


def _estimate(config: PlanConfig, machine: Machine, layout: Layout) -> Estimate:
    workload = _workload(config, layout)
    step = estimate_step(machine, workload)
    tokens_per_second = config.global_batch_size * config.seq_length / step.seconds
    days = None if config.train_tokens is None else config.train_tokens / tokens_per_second / 86400
    rate = config.cost_per_gpu_hour
    cost = None if days is None or rate is None else days * 24 * machine.gpus * rate
    host = checkpoint_host_bytes(workload)
    return Estimate(
        layout,
        config.seq_length,
        _memory_of_fullest_stage(workload),
        step,
        step.idle_seconds / step.seconds,
        step.communication_seconds / step.seconds,
        host * min(machine.gpus, machine.gpus_per_node),
        tokens_per_second,
        days,
        cost,
    )


def _workload(config: PlanConfig, layout: Layout) -> Workload:
    return Workload(
        config.model,
        layout.parallel,
        config.precision,
        config.optimizer,
        micro_batch_size=layout.micro_batch_size,
        seq_length=config.seq_length,
        data_parallel_size=layout.data_parallel_size,
        num_microbatches=layout.num_microbatches,
    )


def _memory_of_fullest_stage(workload: Workload) -> MemoryEstimate:
    """Estimate the memory of the first stage, which holds most activations, or of the last, which holds the LM head."""
    stages = {0, workload.parallel.pipeline_model_parallel_size - 1}
    return max((memory_of_rank(workload, stage) for stage in stages), key=lambda estimate: estimate.total_bytes)


def _recompute_least(config: PlanConfig, machine: Machine, layout: Layout) -> list[Layout]:
    """Return `layout` with the smallest number of recomputed layers per chunk that fits; empty if it is all of them."""
    chunks = layout.pipeline_model_parallel_size * chunks_per_stage(layout.parallel)
    fewer = [replace(layout, recompute_num_layers=layers) for layers in range(1, config.model.num_layers // chunks)]

    def fits(some: Layout) -> bool:
        return _memory_of_fullest_stage(_workload(config, some)).total_bytes <= machine.usable_bytes

    first = bisect_left(fewer, True, key=fits)
    return fewer[first : first + 1]


def _check(config: PlanConfig) -> None:
    problems: list[Problem] = []
    if config.model == ModelConfig():
        remedy = f"set it to one of {', '.join(MODEL_PRESETS)}, or give the sizes of a model (--config, --pretrain)"
        problems.append(Problem("model.preset", "(not set)", "there is no model to plan for", remedy))
    if config.optimizer.optimizer == "muon":
        reason = "the planner assumes the distributed optimizer, which Muon does not support"
        remedy = "set it to adam; `megatron-ipt pretrain --dry-run` estimates a run with Muon"
        problems.append(Problem("optimizer.optimizer", "muon", reason, remedy))
    if config.cost_per_gpu_hour is not None and config.train_tokens is None:
        reason = "the cost depends on the number of training tokens"
        problems.append(Problem("train_tokens", "(not set)", reason, "set it, for example to 1e11"))
    if problems:
        raise UserError.of(problems)


def _explain_division(config: PlanConfig) -> list[Problem]:
    """Describe why no layout divides the model and the batch, and which sizes do."""
    splits = list(find_splits(config))
    if not splits:
        tensor = config.tensor_model_parallel_size or 1
        pipeline, context = config.pipeline_model_parallel_size or 1, config.context_parallel_size or 1
        return check_split(config, tensor, pipeline, context)
    copies = min(config.gpus // math.prod(split) for split in splits)
    unit = copies * (config.micro_batch_size or 1)
    smaller = config.global_batch_size // unit * unit
    fitting = [str(size) for size in (smaller, smaller + unit) if size]
    micro = f", in micro-batches of {config.micro_batch_size}" if config.micro_batch_size else ""
    reason = f"it does not divide evenly: {config.gpus} GPUs hold {copies} or more replicas of the model{micro}"
    return [Problem("global_batch_size", config.global_batch_size, reason, f"use {' or '.join(fitting)}")]


def _explain_memory(config: PlanConfig, machine: Machine, estimates: Sequence[Estimate]) -> Problem:
    """Describe how much memory the smallest layout needs, and a change that would make one fit."""
    smallest = min(estimates, key=lambda estimate: estimate.memory.total_bytes)
    needed, usable = smallest.memory.total_bytes / _GIB, machine.usable_bytes / _GIB
    layout = smallest.layout
    reason = (
        f"the smallest layout (tensor {layout.tensor_model_parallel_size}, pipeline"
        f" {layout.pipeline_model_parallel_size}, micro-batch {layout.micro_batch_size}"
        f"{', recomputation' if layout.recompute else ''}) needs {needed:.1f} GiB per GPU, but {usable:.1f} are usable"
    )
    return Problem("gpus", f"{config.gpus} x {config.gpu}", reason, _find_remedy(config, machine))


def _find_remedy(config: PlanConfig, machine: Machine) -> str:
    """Find the smallest change that makes a layout fit: first other parallel sizes, then more GPUs."""
    given = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "micro_batch_size", "recompute")
    free = config.model_copy(update=dict.fromkeys(given))
    gpus = config.gpus
    while gpus <= _MAX_GPUS:
        candidate = free.model_copy(update={"gpus": gpus})
        fitting = [
            estimate
            for layout in find_layouts(candidate)
            if (estimate := _estimate(candidate, replace(machine, gpus=gpus), layout)).memory.total_bytes
            <= machine.usable_bytes
        ]
        if fitting:
            layout = min(fitting, key=_sort_key).layout
            sizes = f"tensor {layout.tensor_model_parallel_size}, pipeline {layout.pipeline_model_parallel_size}"
            recomputed = ", recomputation" if layout.recompute else ""
            return f"it fits on {gpus} GPUs with {sizes}, micro-batch {layout.micro_batch_size}{recomputed}"
        gpus *= 2
    return "use GPUs with more memory, a smaller model or shorter samples"
