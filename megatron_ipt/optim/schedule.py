"""The learning-rate schedule."""

from __future__ import annotations

from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from megatron_ipt.config.batch_sizes import BatchSizes
from megatron_ipt.config.pretrain import OptimizerConfig, ScheduleConfig, TrainingConfig


def build_schedule(
    schedule: ScheduleConfig, optimizer_config: OptimizerConfig, training: TrainingConfig, optimizer: MegatronOptimizer
) -> OptimizerParamScheduler:
    """Build the schedule: linear warm-up from zero, then decay. Its steps are samples, as in Megatron-LM."""
    samples_after = BatchSizes(training).samples_after
    decay_iters = schedule.lr_decay_iters or training.train_iters
    decay_samples = samples_after(decay_iters)
    wsd_decay_iters = schedule.lr_wsd_decay_iters
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=optimizer_config.lr,
        min_lr=optimizer_config.min_lr,
        lr_warmup_steps=samples_after(schedule.lr_warmup_iters),
        lr_decay_steps=decay_samples,
        lr_decay_style=schedule.lr_decay_style,
        start_wd=optimizer_config.weight_decay,
        end_wd=optimizer_config.weight_decay,
        wd_incr_steps=0,
        wd_incr_style="constant",
        wsd_decay_steps=None
        if wsd_decay_iters is None
        else decay_samples - samples_after(decay_iters - wsd_decay_iters),
        lr_wsd_decay_style=schedule.lr_wsd_decay_style,
    )
