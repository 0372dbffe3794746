"""Describe a training run without importing torch: `megatron-ipt pretrain --dry-run`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import yaml

from megatron_ipt.config.automatic import describe_automatic
from megatron_ipt.config.batch_sizes import BatchSizes
from megatron_ipt.config.gpus import has_gpu
from megatron_ipt.config.layout import data_parallel_size, layers_of_stages, micro_batches_per_step
from megatron_ipt.config.plan import PlanConfig
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.errors import UserError
from megatron_ipt.mixing.blend_epochs import count_epochs, describe_repeats
from megatron_ipt.models.accounting import parameter_count
from megatron_ipt.models.memory import MemoryEstimate, memory_of_run
from megatron_ipt.models.workload import Workload
from megatron_ipt.planning.machine import describe_machine
from megatron_ipt.planning.step_time import estimate_step
from megatron_ipt.training.export_checks import describe_export_problems
from megatron_ipt.training.preflight import check, is_finished, open_stage, resolve_settings

_GIB = 2**30
_ASSUMED_GPU = "h100"


def describe_run(config: PretrainConfig, ranks: int) -> dict[str, Any]:
    """Run the checks of a start on `ranks` ranks, and describe the run.

    Returns:
        JSON values: the configuration, the layout, memory per pipeline stage in GiB, the data, the schedule, estimates
        of time and warnings.

    Raises:
        UserError: the run could not be started.
    """
    check(config, ranks)
    is_done = is_finished(config, open_stage(config))
    given, on_gpus = config, has_gpu() or config.precision.bf16
    config = resolve_settings(config, ranks, on_gpus=on_gpus)
    parallel, training = config.parallel, config.training
    copies = data_parallel_size(parallel, ranks)
    samples = BatchSizes(training).samples_after(training.train_iters)
    epochs_by_entry = count_epochs(config.data, training)
    return {
        "status": "already finished" if is_done else "can be started",
        "config": config.model_dump(),
        "parameters": parameter_count(config.model),
        "layout": {
            "ranks": ranks,
            "tensor": parallel.tensor_model_parallel_size,
            "pipeline": parallel.pipeline_model_parallel_size,
            "context": parallel.context_parallel_size,
            "data": copies,
            "micro_batches": micro_batches_per_step(training, copies),
        },
        "automatic": {
            "device": "GPU" if has_gpu() else "GPU (assumed because of bf16; none is present)" if on_gpus else "CPU",
            **describe_automatic(given, config),
        },
        "memory_gib": {f"stage {stage}": _gib(memory) for stage, memory in _memory_by_stage(config, copies).items()},
        "data": {
            entry.prefix: {"samples": count, "epochs": round(epochs, 2)}
            for entry, (count, epochs) in zip(config.data.blend, epochs_by_entry, strict=True)
        },
        "schedule": {
            "iterations": training.train_iters,
            "tokens": samples * config.data.seq_length,
            "global_batch_size": training.global_batch_size,
            "rampup_batch_size": training.rampup_batch_size,
            "warmup_iterations": config.schedule.lr_warmup_iters,
            "decay": config.schedule.lr_decay_style,
            "validations": _count_validations(config),
            "checkpoints": -(-training.train_iters // config.checkpoint.save_interval),
        },
        "estimate": _estimate_time(config, ranks, copies, samples * config.data.seq_length),
        "warnings": [*describe_repeats(config.data, epochs_by_entry), *describe_export_problems(config)],
    }


def print_description(description: Mapping[str, Any]) -> None:
    """Print the description as YAML: first the configuration, which can be copied into a file, then the rest."""
    sections = {key: value for key, value in description.items() if value}
    config = sections.pop("config")
    print(yaml.safe_dump({"config": config}, sort_keys=False), end="")
    print(yaml.safe_dump(sections, sort_keys=False, width=1_000), end="")


def _memory_by_stage(config: PretrainConfig, copies: int) -> dict[int, MemoryEstimate]:
    """Estimate the memory of the first and the last pipeline stage, and of the first of those with the most layers."""
    layers = layers_of_stages(config.model, config.parallel)
    return {
        stage: memory_of_run(config, copies, stage) for stage in sorted({0, layers.index(max(layers)), len(layers) - 1})
    }


def _gib(memory: MemoryEstimate) -> dict[str, float]:
    parts = {key.removesuffix("_bytes"): value for key, value in vars(memory).items()}
    return {key: round(value / _GIB, 3) for key, value in (parts | {"total": memory.total_bytes}).items()}


def _count_validations(config: PretrainConfig) -> int:
    """Count the validations: before the first step, after every `eval_interval` steps, and after the last step."""
    training = config.training
    return 1 + -(-training.train_iters // training.eval_interval) if training.eval_iters else 0


def _estimate_time(config: PretrainConfig, ranks: int, copies: int, tokens: int) -> dict[str, Any]:
    """Estimate the time of the steps on the assumed GPU, with the planner's model of speed.

    `time_in_steps` leaves out validation and checkpoints. Empty if the peak of the GPU is not known for this precision.
    """
    plan = PlanConfig(model=config.model, precision=config.precision, gpus=ranks, gpu=_ASSUMED_GPU)
    try:
        machine = describe_machine(plan)
    except UserError:
        return {}  # no peak is known for fp32
    step = estimate_step(machine, Workload.of_run(config, copies))
    speed = config.training.global_batch_size * config.data.seq_length / step.seconds
    seconds = tokens / speed
    return {
        "assumed": f"{ranks} x {_ASSUMED_GPU} at {machine.mfu:.0%} of {machine.peak_tflops:,.0f} TFLOP/s",
        "tokens_per_second": round(speed),
        "time_in_steps": str(timedelta(seconds=round(seconds))),
        "gpu_hours": round(seconds * ranks / 3600, 2),
    }
