"""How much memory a rank needs. No torch: a login node can ask."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.config.layout import layers_of_stages, micro_batches_per_step, padded_vocab_size
from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import OptimizerConfig, ParallelConfig, PrecisionConfig, PretrainConfig
from megatron_ipt.models.accounting import parameter_count_of_rank
from megatron_ipt.models.layer_costs import BF16_BYTES, FP8_BYTES, FP32_BYTES, sequence_shards, value_bytes
from megatron_ipt.models.model_family import load_family


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one rank."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int

    @property
    def total_bytes(self) -> int:
        """The sum, without fragmentation of the allocator."""
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes + self.activations_bytes


def memory_of_run(config: PretrainConfig, copies: int, stage: int) -> MemoryEstimate:
    """Estimate the bytes on a rank of pipeline `stage` in a run with that many `copies` of the model."""
    return memory_of_rank(
        config.model,
        config.parallel,
        config.precision,
        micro_batch_size=config.training.micro_batch_size,
        seq_length=config.data.seq_length,
        data_parallel_size=copies,
        num_microbatches=micro_batches_per_step(config.training, copies),
        stage=stage,
        optimizer=config.optimizer,
    )


def memory_of_rank(
    model: ModelConfig,
    parallel: ParallelConfig,
    precision: PrecisionConfig,
    *,
    micro_batch_size: int,
    seq_length: int,
    data_parallel_size: int = 1,
    num_microbatches: int | None = None,
    stage: int = 0,
    optimizer: OptimizerConfig | None = None,
) -> MemoryEstimate:
    """Estimate the bytes on a rank of pipeline `stage` during a step, with megatron-core's Adam.

    bf16 weights have fp32 gradients, master weights and moments, unless settings give them other formats; fp32 weights
    are their own master. In FP8 Transformer Engine keeps the matrices of the layers in FP8 as well, and once more
    transposed, from one micro-batch to the next, unless that is the form of the weights themselves
    (`fp8_param_gather`). A stage of the 1F1B schedule holds the activations of as many micro-batches as there are
    stages from it to the last; the interleaved one, more. With full recomputation a layer keeps its input only, and one
    unit of layers at a time the rest. The larger of what one layer's
    backward pass and what the LM head needs temporarily is added.

    Args:
        micro_batch_size: samples per micro-batch.
        seq_length: tokens per sample.
        data_parallel_size: copies of the model, over which the distributed optimizer splits its state.
        num_microbatches: micro-batches per step on each rank; enough to fill the pipeline if not given.
    """
    parameters = parameter_count_of_rank(model, parallel, stage)
    stages = parallel.pipeline_model_parallel_size
    context = parallel.context_parallel_size
    shards = data_parallel_size * context if parallel.use_distributed_optimizer else 1
    in_flight = _micro_batches_in_flight(parallel, stage, num_microbatches)
    tokens = micro_batch_size * seq_length // context
    layers = layers_of_stages(model, parallel)[stage]
    family = load_family(model.family)
    layer = family.layer_activations_per_token(model, parallel, precision)
    temporary = family.layer_gradients_per_token(model, parallel, precision)
    kept = layers * layer
    if parallel.recompute_granularity == "full":
        layer_input = value_bytes(precision) * model.hidden_size / sequence_shards(parallel)
        unit = parallel.recompute_num_layers or 1
        if parallel.recompute_method == "block":
            recomputed = min(layers, unit * (parallel.virtual_pipeline_model_parallel_size or 1))
            kept = recomputed * layer_input + (layers - recomputed) * layer
            # the layers that are kept come last: their memory is free again when the first is recomputed
            temporary += layer if recomputed == layers else 0
        else:
            kept, temporary = -(-layers // unit) * layer_input, unit * layer + temporary
    fp8_matrices = layers * family.layer_size(model).matrices // parallel.tensor_model_parallel_size
    has_copies = precision.fp8 is not None and not precision.fp8_param_gather
    last = head_bytes(model, parallel, precision, tokens) if stage == stages - 1 else 0
    return MemoryEstimate(
        weights_bytes=parameters * value_bytes(precision) + (2 * FP8_BYTES * fp8_matrices if has_copies else 0),
        gradients_bytes=parameters * (FP32_BYTES if precision.grad_reduce_in_fp32 else value_bytes(precision)),
        optimizer_bytes=int(parameters * _state_bytes(precision, optimizer or OptimizerConfig()) // shards),
        activations_bytes=int(tokens * in_flight * kept + max(tokens * temporary, last)),
    )


def checkpoint_host_bytes(
    model: ModelConfig, parallel: ParallelConfig, precision: PrecisionConfig, data_parallel_size: int, stage: int = 0
) -> int:
    """Host memory that a rank of pipeline `stage` needs for the copy that a checkpoint is written from.

    Ranks that hold the same weights share them out, and the optimizer state too.
    """
    saved = value_bytes(precision) + _optimizer_bytes_per_parameter(precision)
    copies = data_parallel_size * parallel.context_parallel_size
    return parameter_count_of_rank(model, parallel, stage) * saved // copies


def _optimizer_bytes_per_parameter(precision: PrecisionConfig) -> int:
    return 3 * FP32_BYTES if precision.bf16 else 2 * FP32_BYTES


def _micro_batches_in_flight(parallel: ParallelConfig, stage: int, num_microbatches: int | None) -> float:
    """Micro-batches of which a stage holds all activations; a chunk of one counts as its share of the stage."""
    stages, chunks = parallel.pipeline_model_parallel_size, parallel.virtual_pipeline_model_parallel_size or 1
    if chunks == 1:
        return min(stages - stage, num_microbatches or stages)
    held = (2 * (stages - stage - 1) + (chunks - 1) * stages + 1) / chunks
    return held if num_microbatches is None else min(held, num_microbatches)


def _state_bytes(precision: PrecisionConfig, optimizer: OptimizerConfig) -> float:
    """Bytes of master weight and moments of one parameter, without what is offloaded to the host."""
    if not optimizer.use_precision_aware_optimizer:
        return _optimizer_bytes_per_parameter(precision)
    formats = (optimizer.main_params_dtype, optimizer.exp_avg_dtype, optimizer.exp_avg_sq_dtype)
    kept = 1 - optimizer.optimizer_offload_fraction if optimizer.optimizer_cpu_offload else 1
    return kept * sum(FP32_BYTES if name == "fp32" else BF16_BYTES for name in formats)


def head_bytes(model: ModelConfig, parallel: ParallelConfig, precision: PrecisionConfig, tokens: int) -> float:
    """Bytes of the final norm, the softmax in fp32, the gradients of logits and of the LM head's weight."""
    tensor, width = parallel.tensor_model_parallel_size, value_bytes(precision)
    rows = padded_vocab_size(model, parallel) // tensor
    logits = FP32_BYTES + (BF16_BYTES if precision.bf16 else 0)  # in fp32 the gradient replaces the softmax in place
    per_token = width * 2 * model.hidden_size / sequence_shards(parallel) + logits * rows
    return tokens * per_token + width * rows * model.hidden_size
