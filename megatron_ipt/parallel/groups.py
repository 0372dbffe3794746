"""The process groups of a run, and this rank's position in them.

Only this module uses `megatron.core.parallel_state`; all other code gets a `Groups` as an argument.
"""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.models.common.embeddings.yarn_rotary_pos_embedding import YarnRotaryEmbedding
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

from megatron_ipt.config.layout import ranks_per_replica
from megatron_ipt.config.pretrain import ParallelConfig
from megatron_ipt.errors import TemporaryFailure, UserError
from megatron_ipt.parallel.cpu_backend import enable_cpu_backend
from megatron_ipt.parallel.presence import exiting_together

_JOIN_TIMEOUT = timedelta(minutes=5)
"""For all ranks to start and to import their modules."""


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Process groups and this rank's position in them."""

    data_parallel: dist.ProcessGroup
    data_parallel_with_context: dist.ProcessGroup
    context: dist.ProcessGroup
    tensor: dist.ProcessGroup
    pipeline: dist.ProcessGroup
    model: dist.ProcessGroup
    """The tensor and pipeline ranks that together hold one replica of the model."""
    collection: Any
    """The same groups as megatron-core's `ProcessGroupCollection`, for its constructors."""
    device: torch.device
    virtual_size: int | None
    """The number of model chunks of this rank in the interleaved schedule; None without it."""

    @property
    def rank(self) -> int:
        """Rank among all processes."""
        return dist.get_rank()

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return dist.get_world_size()

    @property
    def dp_rank(self) -> int:
        """The index of this rank's share of the batch."""
        return self.data_parallel.rank()

    @property
    def dp_size(self) -> int:
        """The number of model replicas."""
        return self.data_parallel.size()

    @property
    def cp_rank(self) -> int:
        """The index of this rank's slices of each sequence."""
        return self.context.rank()

    @property
    def cp_size(self) -> int:
        """The number of ranks that share a sequence."""
        return self.context.size()

    @property
    def tp_rank(self) -> int:
        """The index of this rank's slice of each matrix."""
        return self.tensor.rank()

    @property
    def tp_size(self) -> int:
        """The number of slices of each matrix."""
        return self.tensor.size()

    @property
    def pp_rank(self) -> int:
        """The pipeline stage of this rank."""
        return self.pipeline.rank()

    @property
    def pp_size(self) -> int:
        """The number of pipeline stages."""
        return self.pipeline.size()

    @property
    def layout(self) -> str:
        """A description of the sizes, for logs."""
        context = f" x context {self.cp_size}" if self.cp_size > 1 else ""
        return f"tensor {self.tp_size} x pipeline {self.pp_size}{context} x data {self.dp_size}"

    @property
    def is_first_stage(self) -> bool:
        """Whether this rank holds the embedding (in its first chunk)."""
        return self.pp_rank == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank computes the loss (in its last chunk)."""
        return self.pp_rank == self.pp_size - 1


def initialize(
    parallel: ParallelConfig, seed: int, timeout_minutes: float = 30.0, *, captures_graphs: bool = False
) -> Groups:
    """Join the ranks that torchrun or srun started (or run alone), create the process groups, and seed all generators.

    If another rank exits meanwhile, this process exits with 75.

    Args:
        parallel: the parallel sizes.
        seed: the seed of the run.
        timeout_minutes: the timeout of collective calls.
        captures_graphs: use Transformer Engine's random generators, which CUDA graphs can capture.

    Raises:
        UserError: the number of ranks is not a multiple of tensor times pipeline times context size.
    """
    enable_cpu_backend()
    device = _choose_device()
    with _joined_world(device, timedelta(minutes=timeout_minutes)):
        _check_world_size(parallel)
        parallel_state.initialize_model_parallel(
            parallel.tensor_model_parallel_size,
            parallel.pipeline_model_parallel_size,
            parallel.virtual_pipeline_model_parallel_size,
            context_parallel_size=parallel.context_parallel_size,
            distributed_timeout_minutes=int(timeout_minutes),
            create_gloo_process_groups=False,  # only needed for optimizer checkpoint formats that are not used here
        )
    groups = Groups(
        data_parallel=parallel_state.get_data_parallel_group(),
        data_parallel_with_context=parallel_state.get_data_parallel_group(with_context_parallel=True),
        context=parallel_state.get_context_parallel_group(),
        tensor=parallel_state.get_tensor_model_parallel_group(),
        pipeline=parallel_state.get_pipeline_model_parallel_group(),
        model=parallel_state.get_model_parallel_group(),
        collection=ProcessGroupCollection.use_mpu_process_groups(),
        device=device,
        virtual_size=parallel.virtual_pipeline_model_parallel_size,
    )
    # as in Megatron-LM: layers of different pipeline stages are initialized with different random numbers
    seed_generators(seed + 100 * groups.pp_rank, captures_graphs=captures_graphs)
    return groups


def seed_generators(seed: int, *, captures_graphs: bool = False) -> None:
    """Seed Python, NumPy, torch and megatron-core's generators, which add their own offset per tensor rank."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    model_parallel_cuda_manual_seed(seed, te_rng_tracker=captures_graphs)


def shutdown() -> None:
    """Destroy the process groups; `initialize` can be called again afterwards.

    A gloo group keeps its threads until it is freed, and they spin after the other ranks have exited.
    """
    parallel_state.destroy_model_parallel()
    parallel_state._INTRA_PARTIAL_DATA_PARALLEL_GROUP_WITH_CP = None  # not reset by megatron-core 0.16.1
    if dist.is_initialized():
        dist.destroy_process_group()
    for embedding in (RotaryEmbedding, YarnRotaryEmbedding):
        embedding.forward.cache_clear()  # its keys are modules, which refer to a group
    gc.collect()  # models and optimizers refer to groups in reference cycles


def _choose_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # Slurm may make only one GPU visible to each task
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


@contextmanager
def _joined_world(device: torch.device, timeout: timedelta) -> Iterator[None]:
    """Join the ranks; inside the context, this process exits if one of them does."""
    torch_distributed: Any = dist  # torch's type stubs do not export the stores
    backend = "nccl" if device.type == "cuda" else "gloo"
    # with a device id, NCCL connects the ranks eagerly, and creates other groups by splitting this communicator
    device_id = device if device.type == "cuda" else None
    if dist.is_initialized():
        yield
    elif "RANK" in os.environ:
        store, rank, world_size = join_store()
        store = torch_distributed.PrefixStore("megatron_ipt", store)
        store.set_timeout(timeout)
        with exiting_together(store, rank, world_size):
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=world_size, timeout=timeout, device_id=device_id
            )
            yield
    else:
        store = torch_distributed.HashStore()
        dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout, device_id=device_id)
        yield


def join_store() -> tuple[Any, int, int]:
    """Join torch's store of the ranks, which rank 0 serves; return it, this rank and the number of ranks.

    Raises:
        TemporaryFailure: another program uses its port.
    """
    torch_distributed: Any = dist
    try:
        store, rank, world_size = next(torch_distributed.rendezvous("env://", timeout=_JOIN_TIMEOUT))
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise TemporaryFailure(
            f"port {os.environ['MASTER_PORT']} (MASTER_PORT), on which rank 0 is to serve the other ranks, is in use\n"
            "set MASTER_PORT to a free port, or end the program that uses it; then run the same command again"
        ) from error
    return store, rank, world_size


def _check_world_size(parallel: ParallelConfig) -> None:
    size = ranks_per_replica(parallel)
    if dist.get_world_size() % size:
        sizes = f"tensor {parallel.tensor_model_parallel_size} x pipeline {parallel.pipeline_model_parallel_size}"
        raise UserError(
            "parallel",
            f"{sizes} x context {parallel.context_parallel_size} on {dist.get_world_size()} ranks",
            "the number of ranks is not a multiple of the size of a model replica",
            f"start a multiple of {size} ranks (torchrun --nproc-per-node), or change the layout",
        )
