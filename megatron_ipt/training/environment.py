"""Environment variables that recipes for GPUs set. Those that are set already are kept."""

from __future__ import annotations

import os

from megatron_ipt.config.gpus import has_gpu
from megatron_ipt.config.pretrain import PretrainConfig


def set_environment(config: PretrainConfig) -> None:
    """Set what CUDA, NCCL, torch and Transformer Engine read when they start, if there is a GPU.

    torch's allocator reads its variable when torch is imported: call it before that.
    """
    if has_gpu():
        for name, value in recommended_environment(config).items():
            os.environ.setdefault(name, value)


def recommended_environment(config: PretrainConfig) -> dict[str, str]:
    """The variables for a run on Hopper GPUs, by name."""
    parallel = config.parallel
    variables = {
        # the allocator grows segments instead of adding ones: batches and checkpoints leave fewer unusable gaps
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        # NVLink SHARP reserves GPU memory for each group; a run has many groups, and few gain from it
        "NCCL_NVLS_ENABLE": "0",
    }
    if parallel.tensor_model_parallel_size > 1 or parallel.context_parallel_size > 1:
        # one hardware queue: a collective starts in the order of its launch, before the matrix product that is to hide
        # it takes all multiprocessors (up to Hopper; Blackwell does not need it)
        variables["CUDA_DEVICE_MAX_CONNECTIONS"] = "1"
    if parallel.overlap_grad_reduce is not False:
        # Transformer Engine's norms, which otherwise take all multiprocessors, leave some to NCCL's kernels beside them
        variables |= {"NVTE_FWD_LAYERNORM_SM_MARGIN": "16", "NVTE_BWD_LAYERNORM_SM_MARGIN": "16"}
    if parallel.pipeline_model_parallel_size > 1:
        # activations go to the next stage in larger pieces over the network
        variables["NCCL_P2P_NET_CHUNKSIZE"] = "2097152"
    if config.precision.cuda_graph_impl != "none":
        # buffers that NCCL registers for a graph must not move, as expandable segments do
        variables["NCCL_GRAPH_REGISTER"] = "0"
    return variables
