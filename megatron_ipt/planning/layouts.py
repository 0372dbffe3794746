"""Candidate layouts of a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from megatron_ipt.config.checks import find_problems
from megatron_ipt.config.plan import PlanConfig
from megatron_ipt.config.pretrain import BlendEntry, DataConfig, ParallelConfig, PretrainConfig, TrainingConfig
from megatron_ipt.errors import Problem


@dataclass(frozen=True)
class Layout:
    """Parallel sizes and micro-batches, named like the trainer's settings; `data_parallel_size` follows from them.

    Attributes:
        recompute: whether layers are recomputed in the backward pass.
        recompute_num_layers: with `recompute`, the number of recomputed layers per model chunk; None for all.
    """

    tensor_model_parallel_size: int
    pipeline_model_parallel_size: int
    context_parallel_size: int
    data_parallel_size: int
    micro_batch_size: int
    num_microbatches: int
    recompute: bool
    virtual_pipeline_model_parallel_size: int | None = None
    recompute_num_layers: int | None = None

    @cached_property
    def parallel(self) -> ParallelConfig:
        """The trainer's settings, always with the distributed optimizer, and with sequence parallelism if tensor > 1.

        Communication is overlapped if several ranks share the optimizer state.
        """
        shares_optimizer = self.data_parallel_size * self.context_parallel_size > 1
        return ParallelConfig(
            tensor_model_parallel_size=self.tensor_model_parallel_size,
            pipeline_model_parallel_size=self.pipeline_model_parallel_size,
            virtual_pipeline_model_parallel_size=self.virtual_pipeline_model_parallel_size,
            context_parallel_size=self.context_parallel_size,
            sequence_parallel=self.tensor_model_parallel_size > 1,
            use_distributed_optimizer=True,
            overlap_grad_reduce=shares_optimizer,
            overlap_param_gather=shares_optimizer,
            recompute_granularity="full" if self.recompute else None,
            recompute_method=None if self.recompute_num_layers is None else "block",
            recompute_num_layers=self.recompute_num_layers,
        )


def find_layouts(config: PlanConfig) -> Iterator[Layout]:
    """Yield every layout whose sizes divide the model and the batch, whether it fits into memory or not.

    Each is yielded without recomputation, and with recomputation of all layers.
    """
    for tensor, pipeline, context in find_splits(config):
        data = config.gpus // (tensor * pipeline * context)
        if config.global_batch_size % data:
            continue
        samples = config.global_batch_size // data
        for micro in _micro_batch_sizes(config, samples):
            for recompute in (False, True) if config.recompute is None else (config.recompute,):
                for chunks in _numbers_of_chunks(config, pipeline, samples // micro):
                    yield Layout(tensor, pipeline, context, data, micro, samples // micro, recompute, chunks)


def find_splits(config: PlanConfig) -> Iterator[tuple[int, int, int]]:
    """Yield the tensor, pipeline and context sizes that divide the model and the GPUs, regardless of the batch."""
    for tensor in _sizes(config.tensor_model_parallel_size, min(config.gpus_per_node, config.gpus)):
        for pipeline in _sizes(config.pipeline_model_parallel_size, min(config.model.num_layers, config.gpus)):
            for context in _context_sizes(config):
                divides = config.gpus % (tensor * pipeline * context) == 0
                if divides and not check_split(config, tensor, pipeline, context):
                    yield tensor, pipeline, context


def check_split(config: PlanConfig, tensor: int, pipeline: int, context: int) -> list[Problem]:
    """Find the problems that the trainer would report about these parallel sizes, assuming that the batch divides."""
    pretrain = PretrainConfig(
        run="",
        model=config.model,
        data=DataConfig(tokenizer="", blend=[BlendEntry(prefix="")], seq_length=config.seq_length),
        precision=config.precision,
        optimizer=config.optimizer,
        training=TrainingConfig(global_batch_size=config.gpus),
        parallel=Layout(tensor, pipeline, context, 1, 1, 1, False).parallel,
    )
    return find_problems(pretrain, config.gpus)


def _sizes(given: int | None, max_size: int) -> list[int]:
    return list(range(1, max_size + 1)) if given is None else [given]


def _context_sizes(config: PlanConfig) -> list[int]:
    """Return the context sizes: powers of two within a node."""
    if config.context_parallel_size is not None:
        return [config.context_parallel_size]
    return [2**power for power in range(min(config.gpus_per_node, config.gpus).bit_length())]


def _numbers_of_chunks(config: PlanConfig, pipeline: int, num_microbatches: int) -> list[int | None]:
    """Return None, and the numbers of chunks per rank that the interleaved schedule supports."""
    given = config.virtual_pipeline_model_parallel_size
    layers = config.model.num_layers // pipeline
    chunks = [number for number in range(2, layers + 1) if layers % number == 0]
    fitting = chunks if pipeline > 1 and num_microbatches % pipeline == 0 else []
    return [number for number in (None, *fitting) if given is None or (number or 1) == given]


def _micro_batch_sizes(config: PlanConfig, samples: int) -> list[int]:
    """Return the powers of two that divide the number of samples per rank and step."""
    sizes = [2**power for power in range(8)] if config.micro_batch_size is None else [config.micro_batch_size]
    return [size for size in sizes if samples % size == 0]
