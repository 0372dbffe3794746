"""Checks of batch sizes against the number of data-parallel ranks."""

from __future__ import annotations

from collections.abc import Iterator

from megatron_ipt.config.pretrain import PretrainConfig, TrainingConfig
from megatron_ipt.errors import Problem


def find_batch_problems(config: PretrainConfig, data_parallel: int) -> Iterator[Problem]:
    """Find batch sizes of `config` that cannot be split over `data_parallel` replicas into whole micro-batches."""
    training, parallel = config.training, config.parallel
    unit = training.micro_batch_size * data_parallel
    reason = f"micro_batch_size x data-parallel ranks = {training.micro_batch_size} x {data_parallel}"
    if parallel.virtual_pipeline_model_parallel_size:
        pipeline = parallel.pipeline_model_parallel_size
        unit *= pipeline
        reason += f", and the interleaved schedule needs a multiple of {pipeline} micro-batches"
    if training.global_batch_size % unit:
        yield Problem(
            "training.global_batch_size",
            training.global_batch_size,
            f"not a multiple of {unit}: {reason}",
            f"use a multiple of {unit}",
        )
    else:
        yield from find_rampup_problems(training, unit)


def find_rampup_problems(training: TrainingConfig, unit: int = 1) -> Iterator[Problem]:
    """Find faults of a batch size ramp-up; `unit` is the number of samples that every batch must be a multiple of."""
    field, rampup, largest = "training.rampup_batch_size", training.rampup_batch_size, training.global_batch_size
    if rampup is None:
        return
    if len(rampup) != 3 or min(rampup) < 1:
        yield Problem(field, rampup, "not three positive integers", "write [initial batch size, increment, samples]")
        return
    first, increment, _ = rampup
    if first >= largest or (largest - first) % increment:
        yield Problem(
            field,
            rampup,
            f"increments of {increment} do not lead from {first} to global_batch_size = {largest}",
            "use an increment that divides the difference",
        )
    elif first % unit or increment % unit:
        yield Problem(
            field,
            rampup,
            f"every batch of the ramp-up must be a multiple of {unit}",
            f"use multiples of {unit} for both",
        )
