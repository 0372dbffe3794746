"""Adam over megatron-core's model chunks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer, get_megatron_optimizer, get_standard_config_overrides
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig

from megatron_ipt.config.pretrain import OptimizerConfig, ParallelConfig, PrecisionConfig


def build_optimizer(
    config: OptimizerConfig,
    parallel: ParallelConfig,
    precision: PrecisionConfig,
    chunks: Sequence[DistributedDataParallel],
) -> MegatronOptimizer:
    """Adam with decoupled weight decay (none on norms and biases), fp32 master weights where the model is bf16."""
    megatron_config = MegatronOptimizerConfig(
        optimizer="adam",
        lr=config.lr,
        min_lr=config.min_lr,
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        adam_eps=config.adam_eps,
        clip_grad=config.clip_grad,
        bf16=precision.bf16,
        params_dtype=torch.bfloat16 if precision.bf16 else torch.float32,
        use_distributed_optimizer=parallel.use_distributed_optimizer,
        overlap_param_gather=parallel.overlap_param_gather,
    )
    return get_megatron_optimizer(
        megatron_config, list(chunks), config_overrides=get_standard_config_overrides(megatron_config)
    )
