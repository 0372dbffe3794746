"""Which implementation of the layers this machine can run: megatron-core's own, or Transformer Engine's."""

from __future__ import annotations

from importlib.util import find_spec

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
