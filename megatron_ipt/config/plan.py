"""What the planner is told."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import PrecisionConfig, PretrainConfig
from megatron_ipt.config.settings import Settings


class PlanConfig(Settings):
    """A model, the machines it is to be trained on, and what may be left open."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    precision: PrecisionConfig = Field(default_factory=PrecisionConfig)
    gpus: int = Field(ge=1, description="GPUs in all")
    gpus_per_node: int = Field(8, ge=1, description="GPUs of one machine: tensor parallelism stays within it")
    gpu: str = Field(
        "h100", description="a100-40gb, a100-80gb, l4, l40s, h100-pcie, h100-nvl, h100, h200, gh200 or b200"
    )
    gpu_memory_gib: float | None = Field(None, gt=0, description="memory of a GPU; the table's when not set")
    gpu_peak_tflops: float | None = Field(
        None, gt=0, description="peak of a GPU in the run's format; the table's when not set"
    )
    memory_reserve: float = Field(
        0.1, ge=0, lt=1, description="share of the memory left to CUDA, NCCL, workspaces and fragmentation"
    )
    seq_length: int = Field(2048, ge=1, description="tokens per sample")
    global_batch_size: int = Field(256, ge=1, description="samples per optimizer step")
    train_tokens: float | None = Field(None, gt=0, description="tokens to train on, as 1e11")
    cost_per_gpu_hour: float | None = Field(None, ge=0, description="price of a GPU for an hour, in any currency")
    mfu: float | None = Field(
        None, gt=0, le=1, description="assumed share of the peak that is reached; not set: 0.4 in bf16, 0.25 in FP8"
    )
    tensor_model_parallel_size: int | None = Field(None, ge=1, description="only layouts with this many")
    pipeline_model_parallel_size: int | None = Field(None, ge=1, description="only layouts with this many")
    context_parallel_size: int = Field(
        1, ge=1, description="ranks that share each sequence: for samples too long for one"
    )
    micro_batch_size: int | None = Field(None, ge=1, description="only layouts with this")
    recompute: bool | None = Field(None, description="only layouts with, or without, recomputation of all activations")
    shown: int = Field(10, ge=1, description="layouts in the table")


def plan_of_run(run: PretrainConfig) -> dict[str, Any]:
    """What a training run already says of its plan; its own layout is left open."""
    return {
        "model": run.model.model_dump(),
        "precision": run.precision.model_dump(),
        "seq_length": run.data.seq_length,
        "global_batch_size": run.training.global_batch_size,
        "train_tokens": float(run.training.train_iters * run.training.global_batch_size * run.data.seq_length),
    }
