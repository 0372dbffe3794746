"""Estimate of the time of a step: computation, pipeline bubbles, and communication that is not overlapped.

Collectives are modeled as rings at a fraction of the nominal bandwidth. The order of ranks is Megatron's: tensor ranks
are adjacent, then context, data and pipeline ranks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from megatron_ipt.config.layout import chunks_per_stage, recomputed_layers
from megatron_ipt.models.accounting import flops_per_token, parameter_count_of_rank
from megatron_ipt.models.layer_costs import gradient_bytes, value_bytes
from megatron_ipt.models.workload import Workload
from megatron_ipt.planning.machine import Machine

_HOP_SECONDS = 5e-6
# megatron-core's default bucket size is the larger of the two
_BUCKET_PARAMETERS = 40_000_000
_BUCKET_PARAMETERS_PER_RANK = 1_000_000
_BACKWARD_SHARE = 2 / 3


@dataclass(frozen=True)
class StepTime:
    """The time of one optimizer step on a rank, in seconds.

    Attributes:
        compute_seconds: computation of all micro-batches, including recomputation.
        tensor_seconds: exchange of activations between tensor ranks.
        context_seconds: exchange of keys and values between context ranks.
        pipeline_seconds: sending of activations and gradients between pipeline stages.
        data_seconds: exchange of gradients and parameters between the ranks that share the optimizer state.
        idle_seconds: pipeline bubbles while the pipeline fills and drains.
    """

    compute_seconds: float
    tensor_seconds: float
    context_seconds: float
    pipeline_seconds: float
    data_seconds: float
    idle_seconds: float

    @property
    def communication_seconds(self) -> float:
        """All communication that is not overlapped with computation."""
        return self.tensor_seconds + self.context_seconds + self.pipeline_seconds + self.data_seconds

    @property
    def seconds(self) -> float:
        """The time of the whole step."""
        return self.compute_seconds + self.communication_seconds + self.idle_seconds


def estimate_step(machine: Machine, workload: Workload) -> StepTime:
    """Estimate the time of a step."""
    parallel, num_microbatches = workload.parallel, workload.num_microbatches
    stages, chunks = parallel.pipeline_model_parallel_size, chunks_per_stage(parallel)
    flops = _tokens(workload) * flops_per_token(workload.model, workload.seq_length)
    flops *= 1 + _recomputed_share(workload) / 3  # one more forward pass, which is a third of forward and backward
    compute = flops / (parallel.tensor_model_parallel_size * stages * machine.flops_per_second)
    tensor, context = _tensor_seconds(machine, workload), _context_seconds(machine, workload)
    # the interleaved schedule overlaps sends with computation in its steady state
    sends = 2 * (num_microbatches if chunks == 1 else stages)
    return StepTime(
        compute_seconds=num_microbatches * compute,
        tensor_seconds=num_microbatches * tensor,
        context_seconds=num_microbatches * context,
        pipeline_seconds=sends * _send_seconds(machine, workload),
        data_seconds=_data_seconds(machine, workload, compute),
        idle_seconds=(stages - 1) / chunks * (compute + tensor + context),
    )


def _tokens(workload: Workload) -> float:
    """Return the tokens of a micro-batch that one context rank holds."""
    return workload.micro_batch_size * workload.seq_length / workload.parallel.context_parallel_size


def _recomputed_share(workload: Workload) -> float:
    """Return the share of the layers whose forward pass runs twice."""
    layers = _layers(workload)
    return recomputed_layers(workload.parallel, layers) / layers


def _tensor_seconds(machine: Machine, workload: Workload) -> float:
    """Return the time for one micro-batch; attention and FFN gather inputs and scatter outputs in both passes.

    In the backward pass, all exchanges but the gathers of the outputs' gradients overlap with matrix products.
    """
    exchanges = 4 + 2 + 4 * _recomputed_share(workload)
    size_bytes = _tokens(workload) * workload.model.hidden_size * value_bytes(workload.precision)
    ranks = workload.parallel.tensor_model_parallel_size
    speed = _ring_bandwidth(machine, ranks, members=machine.gpus_per_node)
    return _layers(workload) * exchanges * _ring_seconds(size_bytes, ranks, speed)


def _context_seconds(machine: Machine, workload: Workload) -> float:
    """Return the time for one micro-batch: keys and values are gathered in both passes, their gradients scattered."""
    model, parallel = workload.model, workload.parallel
    tensor, ranks = parallel.tensor_model_parallel_size, parallel.context_parallel_size
    width = 2 * model.num_query_groups * model.head_dim / tensor
    size_bytes = _tokens(workload) * ranks * width * value_bytes(workload.precision)
    speed = _ring_bandwidth(machine, tensor * ranks, members=machine.gpus_per_node // tensor)
    return _layers(workload) * (3 + _recomputed_share(workload)) * _ring_seconds(size_bytes, ranks, speed)


def _layers(workload: Workload) -> float:
    """Return the average number of layers of a pipeline stage."""
    return workload.model.num_layers / workload.parallel.pipeline_model_parallel_size


def _send_seconds(machine: Machine, workload: Workload) -> float:
    """Return the time to send one micro-batch from a stage to the next; each tensor rank sends its part."""
    parallel = workload.parallel
    stages, tensor = parallel.pipeline_model_parallel_size, parallel.tensor_model_parallel_size
    if stages == 1:
        return 0.0
    ranks = tensor * parallel.context_parallel_size * workload.data_parallel_size * stages
    parts = tensor if parallel.sequence_parallel else 1
    size_bytes = _tokens(workload) * workload.model.hidden_size * value_bytes(workload.precision) / parts
    return size_bytes / _ring_bandwidth(machine, ranks, members=1) + _HOP_SECONDS


def _data_seconds(machine: Machine, workload: Workload, compute: float) -> float:
    """Return the time per step to exchange the gradients, and the parameters after the update.

    With overlap, all but one bucket are sent during the backward pass of the last micro-batch (gradients) and the
    forward pass of the first (parameters); forward and backward pass of a micro-batch take `compute` seconds.
    """
    parallel, precision = workload.parallel, workload.precision
    tensor, ranks = parallel.tensor_model_parallel_size, parallel.context_parallel_size * workload.data_parallel_size
    parameters = parameter_count_of_rank(workload.model, parallel)
    speed = _ring_bandwidth(machine, tensor * ranks, members=machine.gpus_per_node // tensor)
    bucket_size = parallel.bucket_size or max(_BUCKET_PARAMETERS, ranks * _BUCKET_PARAMETERS_PER_RANK)
    buckets = math.ceil(parameters / bucket_size)
    latency = (buckets - 1) * (ranks - 1) * _HOP_SECONDS
    gradients = _ring_seconds(parameters * gradient_bytes(precision), ranks, speed) + latency
    hidden = _BACKWARD_SHARE * compute if parallel.overlap_grad_reduce else 0.0
    if not parallel.use_distributed_optimizer:
        gradients *= 2  # an all-reduce, since every rank needs all gradients
        return max(gradients / buckets, gradients - hidden)
    width = 1 if precision.fp8_param_gather else value_bytes(precision)
    weights = _ring_seconds(parameters * width, ranks, speed) + latency
    hidden_weights = (1 - _BACKWARD_SHARE) * compute if parallel.overlap_param_gather else 0.0
    return max(gradients / buckets, gradients - hidden) + max(weights / buckets, weights - hidden_weights)


def _ring_seconds(size_bytes: float, ranks: int, bytes_per_second: float) -> float:
    """Return the time of an all-gather or reduce-scatter of `size_bytes` over a ring of ranks."""
    return (ranks - 1) * (size_bytes / ranks / bytes_per_second + _HOP_SECONDS)


def _ring_bandwidth(machine: Machine, ranks: int, *, members: int) -> float:
    """Return the bytes per second of each rank in a ring within `ranks` adjacent ranks.

    Within a node it is limited by the links. Across nodes, a ring leaves each node once, so its `members` on a node
    together can use the network bandwidth of all of them.
    """
    if ranks <= machine.gpus_per_node:
        return machine.link_bytes_per_second
    return min(machine.link_bytes_per_second, max(1, members) * machine.network_bytes_per_second)
