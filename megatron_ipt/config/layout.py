"""Arithmetic of the parallel layout: ranks per replica, replicas, micro-batches per step, layers per rank."""

from __future__ import annotations

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import ParallelConfig, TrainingConfig


def model_parallel_size(parallel: ParallelConfig) -> int:
    """Return the number of ranks that share the weights of one replica: tensor x pipeline, as in Megatron."""
    return parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size


def ranks_per_replica(parallel: ParallelConfig) -> int:
    """Return the number of ranks that process the same samples: tensor x pipeline x context."""
    return model_parallel_size(parallel) * parallel.context_parallel_size


def data_parallel_size(parallel: ParallelConfig, world_size: int) -> int:
    """Return the number of replicas on `world_size` ranks."""
    return world_size // ranks_per_replica(parallel)


def micro_batches_per_step(training: TrainingConfig, data_parallel: int) -> int:
    """Return the number of micro-batches per rank and optimizer step; `data_parallel` is the number of replicas."""
    return training.global_batch_size // (training.micro_batch_size * data_parallel)


def chunks_per_stage(parallel: ParallelConfig) -> int:
    """Return the number of model chunks of a pipeline rank; several with the interleaved schedule."""
    return parallel.virtual_pipeline_model_parallel_size or 1


def padded_vocab_size(model: ModelConfig, parallel: ParallelConfig) -> int:
    """Return the rows of the embedding and the LM head, padded so that all tensor ranks hold the same number."""
    unit = parallel.tensor_model_parallel_size * parallel.make_vocab_size_divisible_by
    return -(-model.vocab_size // unit) * unit


def layers_of_stages(model: ModelConfig, parallel: ParallelConfig) -> list[int]:
    """Return the number of layers of each pipeline rank.

    The layers that are not assigned to the first or the last rank by a setting are divided evenly over the others.

    Raises:
        ValueError: they cannot be divided evenly; the message gives the numbers of layers and ranks.
    """
    stages = parallel.pipeline_model_parallel_size
    given = {
        index: layers
        for index, layers in (
            (0, parallel.num_layers_in_first_pipeline_stage),
            (stages - 1, parallel.num_layers_in_last_pipeline_stage),
        )
        if layers is not None
    }
    left, others = model.num_layers - sum(given.values()), stages - len(given)
    each = left // others if others else 0
    if each * others != left or (others and not each):
        raise ValueError(f"{left} layers over {others} pipeline ranks")
    return [given.get(stage, each) for stage in range(stages)]


def recomputed_layers(parallel: ParallelConfig, layers: float) -> float:
    """Return how many of the `layers` of a pipeline rank are recomputed in the backward pass."""
    if parallel.recompute_granularity != "full":
        return 0
    if parallel.recompute_method != "block":
        return layers
    return min(layers, (parallel.recompute_num_layers or 1) * chunks_per_stage(parallel))
