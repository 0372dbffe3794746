"""Which implementation of the layers this machine can run: megatron-core's own, or Transformer Engine's."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import torch

from megatron_ipt.config.pretrain import PrecisionConfig
from megatron_ipt.errors import UserError

LOCAL = "local"
TRANSFORMER_ENGINE = "transformer_engine"


def resolve_transformer_impl(precision: PrecisionConfig) -> str:
    """`local` or `transformer_engine`; `auto` takes the latter where it and a GPU are present.

    Raises:
        UserError: Transformer Engine or FP8 is asked for where it cannot run.
    """
    lacking = _lacking_for_transformer_engine()
    if precision.transformer_impl not in ("auto", LOCAL, TRANSFORMER_ENGINE):
        raise UserError(
            "precision.transformer_impl",
            precision.transformer_impl,
            "no such implementation",
            f"auto, {LOCAL} or {TRANSFORMER_ENGINE}",
        )
    if precision.transformer_impl == TRANSFORMER_ENGINE and lacking:
        raise UserError(
            "precision.transformer_impl", TRANSFORMER_ENGINE, f"it needs {lacking}", "set it to auto or local"
        )
    impl = LOCAL if lacking or precision.transformer_impl == LOCAL else TRANSFORMER_ENGINE
    if precision.fp8 is not None:
        _check_fp8(precision, impl, lacking)
    return impl


def make_deterministic(precision: PrecisionConfig) -> None:
    """In `deterministic_mode` on a GPU, tell torch, cuBLAS, NCCL and Transformer Engine to give the same bits again.

    They look once, so call it before anything runs on the GPU. On a CPU the bits are the same as it is.
    """
    if not precision.deterministic_mode or not torch.cuda.is_available():
        return
    os.environ |= {
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "NCCL_ALGO": "Ring",
        "NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0",
    }
    torch.use_deterministic_algorithms(True)


def fuse_gradient_accumulation(model: torch.nn.Module) -> None:
    """Let Transformer Engine's layers add weight gradients to the fp32 sum inside the matrix product.

    megatron-core's switch for this asks apex for the same kernel for the LM head, which is its own layer.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "fuse_wgrad_accumulation"):
            module.fuse_wgrad_accumulation = True


def _lacking_for_transformer_engine() -> str | None:
    if not torch.cuda.is_available():
        return "a CUDA device, and none is visible"
    if find_spec("transformer_engine") is None:
        return "Transformer Engine, which is not installed (pip install megatron-ipt[te])"
    return None


def _check_fp8(precision: PrecisionConfig, impl: str, lacking: str | None) -> None:
    remedy = "set precision.fp8=null to train in bf16"
    if impl == LOCAL:
        reason = f"FP8 needs {lacking}" if lacking else "FP8 needs Transformer Engine, and the local layers are set"
        raise UserError("precision.fp8", precision.fp8, reason, remedy)
    capability = torch.cuda.get_device_capability()
    if capability < (9, 0):
        name = torch.cuda.get_device_name()
        raise UserError("precision.fp8", precision.fp8, f"{name} is older than Hopper (compute capability 9.0)", remedy)
