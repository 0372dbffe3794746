"""Choice of the layer implementation, megatron-core's own or Transformer Engine's, and checks of GPU settings."""

from __future__ import annotations

import os
from importlib.util import find_spec
from operator import attrgetter
from typing import Any

import torch

from megatron_ipt.config.pretrain import PrecisionConfig, PretrainConfig
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.models.gpu_packages import check_transformer_engine

LOCAL = "local"
TRANSFORMER_ENGINE = "transformer_engine"


def resolve_transformer_impl(precision: PrecisionConfig) -> str:
    """Choose `local` or `transformer_engine`; `auto` is the latter if it is installed and a GPU is present.

    Raises:
        UserError: Transformer Engine or FP8 is requested where it cannot run, or Transformer Engine is too old.
    """
    missing = _missing_for_transformer_engine()
    if not missing and precision.transformer_impl != LOCAL:
        check_transformer_engine()
    if precision.transformer_impl == TRANSFORMER_ENGINE and missing:
        raise UserError(
            "precision.transformer_impl", TRANSFORMER_ENGINE, f"it needs {missing}", "set it to auto or local"
        )
    impl = LOCAL if missing or precision.transformer_impl == LOCAL else TRANSFORMER_ENGINE
    if precision.fp8 is not None:
        _check_fp8(precision, impl, missing)
    return impl


def check_gpu_settings(config: PretrainConfig) -> None:
    """Check settings that need a GPU or Transformer Engine against this machine.

    Raises:
        UserError: with every setting that is not supported here.
    """
    wanted = {
        # megatron-core (0.16) supports it for its own layers too, but calls Transformer Engine's FP8 checks there
        "parallel.recompute_modules": "layernorm" in (config.parallel.recompute_modules or []),
        "parallel.average_in_collective": config.parallel.average_in_collective,
        "parallel.tp_comm_overlap": config.parallel.tp_comm_overlap,
        "precision.cuda_graph_impl": config.precision.cuda_graph_impl != "none",
        "optimizer.use_precision_aware_optimizer": config.optimizer.use_precision_aware_optimizer,
    }
    missing = _missing_for_transformer_engine()
    if missing is None and config.precision.transformer_impl == LOCAL:
        missing = "Transformer Engine's layers, but precision.transformer_impl is local"
    if torch.cuda.is_available():
        del wanted["parallel.average_in_collective"]
    if missing is not None and any(wanted.values()):
        raise UserError.of(
            Problem(key, attrgetter(key)(config), f"it needs {missing}", "leave it unset")
            for key, is_on in wanted.items()
            if is_on
        )


def make_deterministic(precision: PrecisionConfig) -> None:
    """Make torch, cuBLAS, NCCL and Transformer Engine reproduce results bit for bit, if `deterministic_mode` is set.

    The settings are read once, so call this before anything runs on the GPU. On a CPU, results are always reproducible.
    """
    if not precision.deterministic_mode or not torch.cuda.is_available():
        return
    os.environ |= {
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "NCCL_ALGO": "Ring",
        "NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0",
    }
    torch.use_deterministic_algorithms(True)


def open_user_buffers(config: PretrainConfig) -> None:
    """Allocate Transformer Engine's user buffers, which overlap tensor-parallel communication with matrix products.

    A collective call; must precede the building of the model.
    """
    from transformer_engine.pytorch.module import base

    parallel, precision, modes = config.parallel, config.precision, base.UserBufferQuantizationMode
    formats = [modes.NONE if precision.fp8 is None else modes.FP8]
    if precision.first_last_layers_bf16:
        formats.append(modes.NONE)
    tokens = config.data.seq_length * config.training.micro_batch_size // parallel.context_parallel_size
    base.destroy_ub()  # of an earlier run in this process
    base.initialize_ub(
        shape=[tokens, config.model.hidden_size],
        tp_size=parallel.tensor_model_parallel_size,
        quantization_modes=formats,
        dtype=torch.bfloat16 if precision.bf16 else torch.float32,
        bootstrap_backend="nccl",
    )


def fuse_gradient_accumulation(model: torch.nn.Module) -> None:
    """Make Transformer Engine's layers accumulate weight gradients in fp32 within the matrix product.

    megatron-core's setting for this (0.16 to 0.19) also requires apex, because the LM head is megatron-core's own
    layer.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "fuse_wgrad_accumulation"):
            module.fuse_wgrad_accumulation = True


def _missing_for_transformer_engine() -> str | None:
    if not torch.cuda.is_available():
        return "a CUDA device, but none is visible"
    if find_spec("transformer_engine") is None:
        return "Transformer Engine, which is not installed (pip install megatron-ipt[te])"
    return None


def _check_fp8(precision: PrecisionConfig, impl: str, missing: str | None) -> None:
    remedy = "set precision.fp8=null to train in bf16"
    if impl == LOCAL:
        reason = f"FP8 needs {missing}" if missing else "FP8 needs Transformer Engine, but transformer_impl is local"
        raise UserError("precision.fp8", precision.fp8, reason, remedy)
    capability = torch.cuda.get_device_capability()
    if capability < (9, 0):
        name = torch.cuda.get_device_name()
        raise UserError("precision.fp8", precision.fp8, f"{name} is older than Hopper (compute capability 9.0)", remedy)
