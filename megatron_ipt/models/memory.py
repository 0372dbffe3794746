"""Estimate of the memory of a rank. Does not import torch, so that planning works on login nodes."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.config.layout import chunks_per_stage, layers_of_stages, padded_vocab_size, recomputed_layers
from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import OptimizerConfig, ParallelConfig, PrecisionConfig, PretrainConfig
from megatron_ipt.models.accounting import parameter_count_of_rank
from megatron_ipt.models.layer_costs import (
    BF16_BYTES,
    FP8_BYTES,
    FP32_BYTES,
    gradient_bytes,
    sequence_shards,
    value_bytes,
)
from megatron_ipt.models.model_family import load_family
from megatron_ipt.models.workload import Workload


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one rank."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int

    @property
    def total_bytes(self) -> int:
        """The sum, without fragmentation."""
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes + self.activations_bytes


def memory_of_run(config: PretrainConfig, copies: int, stage: int) -> MemoryEstimate:
    """Estimate the bytes on a rank of pipeline `stage` in a run with `copies` model replicas."""
    return memory_of_rank(Workload.of_run(config, copies), stage)


def memory_of_rank(workload: Workload, stage: int = 0) -> MemoryEstimate:
    """Estimate the bytes on a rank of pipeline `stage` during a step, with megatron-core's Adam.

    bf16 weights have fp32 gradients, master weights and moments, unless settings select other formats; fp32 weights
    have no separate master weights. In FP8, Transformer Engine caches the layers' matrices in FP8, also transposed,
    between micro-batches, unless the weights themselves are in FP8 (`fp8_param_gather`). In the 1F1B schedule, a stage
    holds the activations of as many micro-batches as there are stages from it to the last; in the interleaved schedule,
    more, and the tensors between its chunks. With full recomputation, a layer stores only its input, and one unit of
    layers at a time is recomputed. Added is the larger of the temporary memory of one layer's backward pass and of the
    LM head.
    """
    model, parallel, precision = workload.model, workload.parallel, workload.precision
    parameters = parameter_count_of_rank(model, parallel, stage)
    stages = parallel.pipeline_model_parallel_size
    context = parallel.context_parallel_size
    shards = workload.data_parallel_size * context if parallel.use_distributed_optimizer else 1
    in_flight = _micro_batches_in_flight(workload, stage)
    boundaries = _boundary_tensors(workload, stage)
    tokens = workload.micro_batch_size * workload.seq_length // context
    layers = layers_of_stages(model, parallel)[stage]
    family = load_family(model.family)
    layer = family.layer_activations_per_token(model, parallel, precision)
    temporary = family.layer_gradients_per_token(model, parallel, precision)
    layer_input = value_bytes(precision) * model.hidden_size / sequence_shards(parallel)
    kept = layers * layer
    if parallel.recompute_granularity == "full":
        unit = parallel.recompute_num_layers or 1
        if parallel.recompute_method == "block":
            recomputed = recomputed_layers(parallel, layers)
            kept = recomputed * layer_input + (layers - recomputed) * layer
            # the layers that are not recomputed come last: their activations are freed before the first is recomputed
            temporary += layer if recomputed == layers else 0
        else:
            kept, temporary = -(-layers // unit) * layer_input, unit * layer + temporary
    fp8_matrices = layers * family.layer_size(model).matrices // parallel.tensor_model_parallel_size
    has_copies = precision.fp8 is not None and not precision.fp8_param_gather
    last = head_bytes(model, parallel, precision, tokens) if stage == stages - 1 else 0
    return MemoryEstimate(
        weights_bytes=parameters * value_bytes(precision) + (2 * FP8_BYTES * fp8_matrices if has_copies else 0),
        gradients_bytes=parameters * gradient_bytes(precision),
        optimizer_bytes=int(parameters * _state_bytes(precision, workload.optimizer) // shards),
        activations_bytes=int(tokens * (in_flight * kept + boundaries * layer_input) + max(tokens * temporary, last)),
    )


def checkpoint_host_bytes(workload: Workload, stage: int = 0) -> int:
    """Return the bytes of host memory that a rank of pipeline `stage` needs for the snapshot of a checkpoint.

    Ranks that hold the same weights and optimizer state each copy a share.
    """
    saved = value_bytes(workload.precision) + _optimizer_bytes_per_parameter(workload.precision)
    copies = workload.data_parallel_size * workload.parallel.context_parallel_size
    return parameter_count_of_rank(workload.model, workload.parallel, stage) * saved // copies


def _optimizer_bytes_per_parameter(precision: PrecisionConfig) -> int:
    return 3 * FP32_BYTES if precision.bf16 else 2 * FP32_BYTES


def _micro_batches_in_flight(workload: Workload, stage: int) -> float:
    """Return the number of micro-batches whose activations a stage holds; chunks count as fractions of the stage."""
    stages = workload.parallel.pipeline_model_parallel_size
    chunks = chunks_per_stage(workload.parallel)
    if chunks == 1:
        return min(stages - stage, workload.num_microbatches)
    return min((2 * (stages - stage - 1) + (chunks - 1) * stages + 1) / chunks, workload.num_microbatches)


def _boundary_tensors(workload: Workload, stage: int) -> float:
    """Return the number of tensors between chunks of the model that a stage of the interleaved schedule holds.

    These are the outputs of all chunks in flight, and because transfers overlap with computation, the next input and
    the next gradient, which are being received, and a gradient that is being sent. Without interleaving there is one
    output for all layers of a stage, less than the margin of the estimate.
    """
    chunks = chunks_per_stage(workload.parallel)
    return _micro_batches_in_flight(workload, stage) * chunks + 3 if chunks > 1 else 0


def _state_bytes(precision: PrecisionConfig, optimizer: OptimizerConfig) -> float:
    """Return the bytes of master weight and moments per parameter, without the share offloaded to the host."""
    if not optimizer.use_precision_aware_optimizer:
        return _optimizer_bytes_per_parameter(precision)
    formats = (optimizer.main_params_dtype, optimizer.exp_avg_dtype, optimizer.exp_avg_sq_dtype)
    kept = 1 - optimizer.optimizer_offload_fraction if optimizer.optimizer_cpu_offload else 1
    return kept * sum(FP32_BYTES if name == "fp32" else BF16_BYTES for name in formats)


def head_bytes(model: ModelConfig, parallel: ParallelConfig, precision: PrecisionConfig, tokens: int) -> float:
    """Return the bytes of the final norm, the softmax in fp32, and the gradients of logits and LM head weight.

    `tokens` is the number of tokens of a micro-batch on one context-parallel rank.
    """
    tensor, width = parallel.tensor_model_parallel_size, value_bytes(precision)
    rows = padded_vocab_size(model, parallel) // tensor
    logits = FP32_BYTES + (BF16_BYTES if precision.bf16 else 0)  # in fp32 the gradient replaces the softmax in place
    per_token = width * 2 * model.hidden_size / sequence_shards(parallel) + logits * rows
    return tokens * per_token + width * rows * model.hidden_size
