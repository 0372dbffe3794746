"""Estimate of the remaining time of a run: its steps, and the validations and checkpoints between them."""

from __future__ import annotations

import math

from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.training.clock import CHECKPOINT, LOCAL_CHECKPOINT, VALIDATION, RunClock


def seconds_left(config: PretrainConfig, clock: RunClock, iteration: int, step_seconds: float) -> float:
    """Estimate the time in seconds from the report of `iteration`, before its validation and checkpoint, to the end.

    Each further validation or checkpoint is assumed to block training for as long as earlier ones did on average, and
    for no time before the first.

    Args:
        config: the configuration of the run.
        clock: the clock of the run.
        iteration: the current iteration.
        step_seconds: the mean duration of recent steps, in seconds.
    """
    last = config.training.train_iters
    validations = times_left(config.training.eval_interval, iteration, last)
    saves = times_left(config.checkpoint.save_interval, iteration, last)
    local_interval = config.checkpoint.local_interval
    local_saves = 0
    if local_interval is not None:
        shared_too = times_left(math.lcm(local_interval, config.checkpoint.save_interval), iteration, last)
        local_saves = times_left(local_interval, iteration, last) - shared_too
    return (
        (last - iteration) * step_seconds
        + validations * clock.spent_on(VALIDATION).mean_seconds
        + saves * clock.spent_on(CHECKPOINT).mean_seconds
        + local_saves * clock.spent_on(LOCAL_CHECKPOINT).mean_seconds
    )


def times_left(interval: int, iteration: int, last: int) -> int:
    """Count the events that remain at or after `iteration`: one every `interval` iterations, and one at the `last`."""
    return last // interval - (iteration - 1) // interval + (last % interval > 0)
