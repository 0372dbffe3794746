"""Settings for the planner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from megatron_ipt.config.batch_checks import find_rampup_problems
from megatron_ipt.config.batch_sizes import BatchSizes
from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import OptimizerConfig, PrecisionConfig, PretrainConfig
from megatron_ipt.config.settings import Settings
from megatron_ipt.errors import UserError


class PlanConfig(Settings):
    """A model, the GPUs to train it on, and constraints on the layout."""

    renamed: ClassVar[Mapping[str, str]] = {"shown": "max_rows"}

    model: ModelConfig = Field(default_factory=ModelConfig)
    precision: PrecisionConfig = Field(default_factory=PrecisionConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    gpus: int = Field(ge=1, description="total number of GPUs")
    gpus_per_node: int = Field(8, ge=1, description="GPUs per node; tensor parallelism stays within a node")
    gpu: str = Field(
        "h100", description="GPU model: a100-40gb, a100-80gb, l4, l40s, h100-pcie, h100-nvl, h100, h200, gh200 or b200"
    )
    gpu_memory_gib: float | None = Field(None, gt=0, description="memory per GPU; that of the GPU model if not set")
    gpu_peak_tflops: float | None = Field(
        None, gt=0, description="peak per GPU in the format of the run; that of the GPU model if not set"
    )
    gpu_link_gbytes: float | None = Field(
        None,
        gt=0,
        description="bandwidth from a GPU to another of its node, in one direction, in GB/s; that of the GPU model if"
        " not set, or of PCIe 4.0 (32) for another",
    )
    network_gbits: float = Field(
        400, gt=0, description="bandwidth of the network between nodes per GPU, in one direction, in Gbit/s"
    )
    memory_reserve: float = Field(
        0.1, ge=0, lt=1, description="share of GPU memory reserved for CUDA, NCCL, workspaces and fragmentation"
    )
    seq_length: int = Field(2048, ge=1, description="tokens per sample")
    global_batch_size: int = Field(256, ge=1, description="samples per optimizer step")
    train_tokens: float | None = Field(None, gt=0, description="tokens to train on, for example 1e11")
    cost_per_gpu_hour: float | None = Field(None, ge=0, description="price of a GPU hour, in any currency")
    mfu: float | None = Field(
        None,
        gt=0,
        le=1,
        description="assumed model FLOPs utilization while a GPU computes; 0.4 in bf16 and 0.3 in FP8 if not set",
    )
    tensor_model_parallel_size: int | None = Field(None, ge=1, description="consider only this size")
    pipeline_model_parallel_size: int | None = Field(None, ge=1, description="consider only this size")
    virtual_pipeline_model_parallel_size: int | None = Field(
        None, ge=1, description="consider only this number of chunks per pipeline rank; 1: no interleaved schedule"
    )
    context_parallel_size: int | None = Field(
        None, ge=1, description="consider only this size; powers of two within a node if not set"
    )
    micro_batch_size: int | None = Field(None, ge=1, description="consider only this size")
    recompute: bool | None = Field(
        None,
        description="consider only layouts with, or without, full activation recomputation of some or all layers",
    )
    max_rows: int = Field(10, ge=1, description="number of layouts in the table")


def plan_of_run(run: PretrainConfig) -> dict[str, Any]:
    """Return the settings of the plan that a training run determines; the layout of the run is ignored.

    Raises:
        UserError: the batch size ramp-up of the run is invalid.
    """
    if problems := list(find_rampup_problems(run.training)):
        raise UserError.of(problems)
    return {
        "model": run.model.model_dump(),
        "precision": run.precision.model_dump(),
        "optimizer": run.optimizer.model_dump(),
        "seq_length": run.data.seq_length,
        "global_batch_size": run.training.global_batch_size,
        "train_tokens": float(BatchSizes(run.training).samples_after(run.training.train_iters) * run.data.seq_length),
    }
