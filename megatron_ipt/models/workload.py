"""The workload of a training step: the input of the memory and time estimates."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.config.layout import micro_batches_per_step
from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import OptimizerConfig, ParallelConfig, PrecisionConfig, PretrainConfig


@dataclass(frozen=True)
class Workload:
    """A model, its layout and number formats, and the samples of a step.

    Attributes:
        micro_batch_size: samples per micro-batch.
        seq_length: tokens per sample.
        data_parallel_size: model replicas, over which the distributed optimizer shards its state.
        num_microbatches: micro-batches per step on each rank.
    """

    model: ModelConfig
    parallel: ParallelConfig
    precision: PrecisionConfig
    optimizer: OptimizerConfig
    micro_batch_size: int
    seq_length: int
    data_parallel_size: int
    num_microbatches: int

    @classmethod
    def of_run(cls, config: PretrainConfig, copies: int) -> Workload:
        """Return the workload of a run with `copies` model replicas, at its full batch size."""
        return cls(
            config.model,
            config.parallel,
            config.precision,
            config.optimizer,
            micro_batch_size=config.training.micro_batch_size,
            seq_length=config.data.seq_length,
            data_parallel_size=copies,
            num_microbatches=micro_batches_per_step(config.training, copies),
        )
