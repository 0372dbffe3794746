"""Environment variables recommended for training on GPUs. Variables that are already set are kept."""

from __future__ import annotations

import os

from megatron_ipt.config.gpus import has_gpu
from megatron_ipt.config.pretrain import PretrainConfig


def set_environment(config: PretrainConfig) -> None:
    """Set the variables that CUDA, NCCL, torch and Transformer Engine read at start-up, if there is a GPU.

    torch's allocator reads its variable when torch is imported, so call this first.
    """
    if has_gpu():
        for name, value in recommended_environment(config).items():
            os.environ.setdefault(name, value)


def recommended_environment(config: PretrainConfig) -> dict[str, str]:
    """Return the variables for a run on Hopper GPUs, by name."""
    parallel = config.parallel
    variables = {
        # the allocator grows segments instead of adding new ones, which reduces fragmentation
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        # NVLink SHARP reserves GPU memory for each process group; few of the many groups of a run benefit from it
        "NCCL_NVLS_ENABLE": "0",
        # kernels of collectives are scheduled before the GEMMs that overlap them
        "TORCH_NCCL_HIGH_PRIORITY": "1",
    }
    if parallel.tensor_model_parallel_size > 1 or parallel.context_parallel_size > 1:
        # with one hardware queue, kernels start in launch order: a collective starts before the GEMM that overlaps it
        # occupies all SMs (needed up to Hopper; not on Blackwell)
        variables["CUDA_DEVICE_MAX_CONNECTIONS"] = "1"
    if parallel.overlap_grad_reduce is not False:
        # Transformer Engine's norms otherwise occupy all SMs; the margin leaves some to concurrent NCCL kernels
        variables |= {"NVTE_FWD_LAYERNORM_SM_MARGIN": "20", "NVTE_BWD_LAYERNORM_SM_MARGIN": "20"}
    if parallel.pipeline_model_parallel_size > 1:
        # larger chunks for activations sent between pipeline stages over the network
        variables["NCCL_P2P_NET_CHUNKSIZE"] = "2097152"
    if config.precision.cuda_graph_impl != "none":
        # NCCL's buffer registration for CUDA graphs does not support expandable segments
        variables["NCCL_GRAPH_REGISTER"] = "0"
    return variables
