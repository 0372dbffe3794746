"""How much memory a rank needs. No torch: a login node can ask."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.config.layout import layers_of_stages, micro_batches_per_step, padded_vocab_size
from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import ParallelConfig, PrecisionConfig, PretrainConfig
from megatron_ipt.models.accounting import parameter_count_of_rank
from megatron_ipt.models.layer_costs import BF16_BYTES, FP32_BYTES, sequence_shards, value_bytes
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
) -> MemoryEstimate:
    """Estimate the bytes on a rank of pipeline `stage` during a step, with megatron-core's Adam.

    bf16 weights have fp32 gradients, master weights and moments; fp32 weights are their own master. A stage of the
    1F1B schedule holds the activations of as many micro-batches as there are stages from it to the last. With full
    recomputation a layer keeps its input only, and one layer at a time the rest. The larger of what one layer's
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
    in_flight = min(stages - stage, num_microbatches or stages)
    tokens = micro_batch_size * seq_length // context
    layers = layers_of_stages(model, parallel)[stage]
    family = load_family(model.family)
    layer = family.layer_activations_per_token(model, parallel, precision)
    temporary = family.layer_gradients_per_token(model, parallel, precision)
    kept = layers * layer
    if parallel.recompute_granularity == "full":
        layer_input = value_bytes(precision) * model.hidden_size / sequence_shards(parallel)
        kept, temporary = layers * layer_input, layer + temporary
    last = head_bytes(model, parallel, precision, tokens) if stage == stages - 1 else 0
    return MemoryEstimate(
        weights_bytes=parameters * value_bytes(precision),
        gradients_bytes=parameters * FP32_BYTES,
        optimizer_bytes=parameters * (12 if precision.bf16 else 8) // shards,
        activations_bytes=int(tokens * in_flight * kept + max(tokens * temporary, last)),
    )


def head_bytes(model: ModelConfig, parallel: ParallelConfig, precision: PrecisionConfig, tokens: int) -> float:
    """Bytes of the final norm, the softmax in fp32, the gradients of logits and of the LM head's weight."""
    tensor, width = parallel.tensor_model_parallel_size, value_bytes(precision)
    rows = padded_vocab_size(model, parallel) // tensor
    logits = FP32_BYTES + (BF16_BYTES if precision.bf16 else 0)  # in fp32 the gradient replaces the softmax in place
    per_token = width * 2 * model.hidden_size / sequence_shards(parallel) + logits * rows
    return tokens * per_token + width * rows * model.hidden_size
