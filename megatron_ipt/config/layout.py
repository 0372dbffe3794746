"""Arithmetic of the layout: how many ranks share the data, how many micro-batches make a step."""

from __future__ import annotations

from megatron_ipt.config.pretrain import ParallelConfig, TrainingConfig


def model_parallel_size(parallel: ParallelConfig) -> int:
    """Ranks that work on the same samples together."""
    return parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size * parallel.context_parallel_size


def data_parallel_size(parallel: ParallelConfig, world_size: int) -> int:
    """Copies of the model over `world_size` ranks."""
    return world_size // model_parallel_size(parallel)


def micro_batches_per_step(training: TrainingConfig, data_parallel: int) -> int:
    """Micro-batches that each rank runs for one optimizer step."""
    return training.global_batch_size // (training.micro_batch_size * data_parallel)
