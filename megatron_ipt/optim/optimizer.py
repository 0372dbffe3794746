"""Adam or Muon over megatron-core's model chunks."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer, get_megatron_optimizer, get_standard_config_overrides
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig

from megatron_ipt.config.pretrain import OptimizerConfig, ParallelConfig, PrecisionConfig
from megatron_ipt.errors import UserError


def build_optimizer(
    config: OptimizerConfig,
    parallel: ParallelConfig,
    precision: PrecisionConfig,
    chunks: Sequence[DistributedDataParallel],
) -> MegatronOptimizer:
    """Build the optimizer, with decoupled weight decay (none on norms and biases), and fp32 masters of bf16 weights.

    Adam is Transformer Engine's fused implementation if installed, else apex's, else torch's.

    Raises:
        UserError: Muon is requested and megatron-core or a package that it needs is missing or too old.
    """
    check_optimizer(config)
    megatron_config = optimizer_config(config, parallel, precision)
    return get_megatron_optimizer(
        megatron_config,
        list(chunks),
        config_overrides=get_standard_config_overrides(megatron_config),
        use_gloo_process_groups=False,
    )


def optimizer_config(
    config: OptimizerConfig, parallel: ParallelConfig, precision: PrecisionConfig
) -> MegatronOptimizerConfig:
    """Translate the settings of the optimizer to megatron-core's configuration."""
    return MegatronOptimizerConfig(
        optimizer=config.optimizer,
        lr=config.lr,
        min_lr=config.min_lr,
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        adam_eps=config.adam_eps,
        clip_grad=config.clip_grad,
        bf16=precision.bf16,
        params_dtype=torch.bfloat16 if precision.bf16 else torch.float32,
        use_distributed_optimizer=bool(parallel.use_distributed_optimizer),
        overlap_param_gather=bool(parallel.overlap_param_gather),
        fp8_recipe=precision.fp8_recipe if precision.fp8 else None,
        **_muon(config),
        **_precision_aware(config),
    )


def check_optimizer(config: OptimizerConfig) -> None:
    """Check that the requested optimizer is installed.

    Raises:
        UserError: it is not.
    """
    if config.optimizer != "muon":
        return
    for module, lacking in (
        ("megatron.core.optimizer.emerging_optimizers", "a newer megatron-core"),
        ("emerging_optimizers", "the package emerging-optimizers"),
    ):
        if find_spec(module) is None:
            remedy = "on Python 3.12 or newer: pip install 'megatron-core>=0.17' emerging-optimizers; or set it to adam"
            raise UserError("optimizer.optimizer", "muon", f"Muon needs {lacking}", remedy)


def _muon(config: OptimizerConfig) -> dict[str, Any]:
    return {"muon_momentum": config.muon_momentum} if config.optimizer == "muon" else {}


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def _precision_aware(config: OptimizerConfig) -> dict[str, Any]:
    if not config.use_precision_aware_optimizer:
        return {}
    return {
        "use_precision_aware_optimizer": True,
        # storing only the 16 bits that bf16 weights lack would save memory, but such a checkpoint could be read only by
        # the same optimizer
        "store_param_remainders": False,
        "main_params_dtype": _DTYPES[config.main_params_dtype],
        "exp_avg_dtype": _DTYPES[config.exp_avg_dtype],
        "exp_avg_sq_dtype": _DTYPES[config.exp_avg_sq_dtype],
        "optimizer_cpu_offload": config.optimizer_cpu_offload,
        "optimizer_offload_fraction": config.optimizer_offload_fraction if config.optimizer_cpu_offload else 0.0,
        "overlap_cpu_optimizer_d2h_h2d": config.optimizer_cpu_offload,
    }
