"""What the sizes of the batch must satisfy together with the ranks that share it."""

from __future__ import annotations

from collections.abc import Iterator

from megatron_ipt.config.pretrain import PretrainConfig, TrainingConfig
from megatron_ipt.errors import Problem


def find_batch_problems(config: PretrainConfig, data_parallel: int) -> Iterator[Problem]:
    """Everything in which the batches of `config` do not divide over `data_parallel` copies of the model."""
    training, parallel = config.training, config.parallel
    unit = training.micro_batch_size * data_parallel
    reason = f"micro_batch_size x data-parallel ranks = {training.micro_batch_size} x {data_parallel}"
    if parallel.virtual_pipeline_model_parallel_size:
        pipeline = parallel.pipeline_model_parallel_size
        unit *= pipeline
        reason += f", and the interleaved schedule wants {pipeline} micro-batches or a multiple"
    if training.global_batch_size % unit:
        yield Problem(
            "training.global_batch_size",
            training.global_batch_size,
            f"does not divide: {reason}",
            f"use a multiple of {unit}",
        )
    else:
        yield from find_rampup_problems(training, unit)


def find_rampup_problems(training: TrainingConfig, unit: int = 1) -> Iterator[Problem]:
    """Everything in which a ramp-up does not lead to the global batch size in multiples of `unit`."""
    field, rampup, largest = "training.rampup_batch_size", training.rampup_batch_size, training.global_batch_size
    if rampup is None:
        return
    if len(rampup) != 3 or min(rampup) < 1:
        yield Problem(field, rampup, "not three positive numbers", "write [first batch, increment, samples]")
        return
    first, increment, _ = rampup
    if first >= largest or (largest - first) % increment:
        yield Problem(
            field,
            rampup,
            f"steps of {increment} do not lead from {first} up to global_batch_size = {largest}",
            "use an increment that divides the difference",
        )
    elif first % unit or increment % unit:
        yield Problem(
            field, rampup, "every batch on the way has to divide over the ranks", f"use multiples of {unit} for both"
        )
