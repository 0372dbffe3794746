"""What the planner is told."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import PrecisionConfig, PretrainConfig
from megatron_ipt.config.setting import setting


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """A model, the machines it is to be trained on, and what may be left open."""

    model: ModelConfig = setting(factory=ModelConfig)
    precision: PrecisionConfig = setting(factory=PrecisionConfig)
    gpus: int = setting(help="GPUs in all")
    gpus_per_node: int = setting(8, "GPUs of one machine: tensor parallelism stays within it")
    gpu: str = setting("h100", "a100-40gb, a100-80gb, l4, l40s, h100-pcie, h100-nvl, h100, h200, gh200 or b200")
    gpu_memory_gib: float | None = setting(None, "memory of a GPU; the table's when not set")
    gpu_peak_tflops: float | None = setting(None, "peak of a GPU in the run's format; the table's when not set")
    memory_reserve: float = setting(0.1, "share of the memory left to CUDA, NCCL, workspaces and fragmentation")
    seq_length: int = setting(2048, "tokens per sample")
    global_batch_size: int = setting(256, "samples per optimizer step")
    train_tokens: float | None = setting(None, "tokens to train on, as 1e11")
    cost_per_gpu_hour: float | None = setting(None, "price of a GPU for an hour, in any currency")
    mfu: float | None = setting(None, "assumed share of the peak that is reached; not set: 0.4 in bf16, 0.25 in FP8")
    tensor_model_parallel_size: int | None = setting(None, "only layouts with this many")
    pipeline_model_parallel_size: int | None = setting(None, "only layouts with this many")
    context_parallel_size: int = setting(1, "ranks that share each sequence: for samples too long for one")
    micro_batch_size: int | None = setting(None, "only layouts with this")
    recompute: bool | None = setting(None, "only layouts with, or without, recomputation of all activations")
    shown: int = setting(10, "layouts in the table")


def plan_of_run(run: PretrainConfig) -> dict[str, Any]:
    """What a training run already says of its plan; its own layout is left open."""
    return {
        "model": asdict(run.model),
        "precision": asdict(run.precision),
        "seq_length": run.data.seq_length,
        "global_batch_size": run.training.global_batch_size,
        "train_tokens": float(run.training.train_iters * run.training.global_batch_size * run.data.seq_length),
    }
