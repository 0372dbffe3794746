"""The state of Transformer Engine's layers besides their weights, saved as plain tensors.

Only FP8's delayed scaling has such a state: the scales, and the history of maximum absolute values (amax) from which
they are computed. Transformer Engine serializes it as a pickle inside a byte tensor, which an allow-list cannot check,
and which Transformer Engine itself no longer loads since 2.20. It is neither saved nor loaded here: a checkpoint holds
the scales as tensors, and a run that loads a checkpoint without them starts with initial scales, as a new run does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from megatron.core.fp8_utils import get_fp8_recipe

EXTRA_STATE = "_extra_state"
_SCALES = "fp8_scales"
_PARTS = {"scaling_fwd": ("scale", "amax_history"), "scaling_bwd": ("scale", "amax_history")}
"""The saved parts of a layer's `fp8_meta`, for the forward and the backward pass."""
_SCALES_PER_GEMM = 3  # input, weight and output, in the forward pass


def with_plain_scales(
    chunk: torch.nn.Module, state: Mapping[str, Any], stored: Collection[str] | None
) -> dict[str, Any]:
    """Return `state` with tensors of scales in place of the pickles.

    Args:
        chunk: the model chunk.
        state: its sharded state as megatron-core would save it.
        stored: for loading, the names in the checkpoint, so that scales it lacks are not requested; None for saving.
    """
    plain = {key: value for key, value in state.items() if not key.endswith(EXTRA_STATE)}
    config: Any = chunk.config
    if not config.fp8 or config.fp8_recipe != "delayed":
        return plain
    for key, pickled in state.items():
        if not key.endswith(EXTRA_STATE):
            continue
        path = key.removesuffix(f".{EXTRA_STATE}")
        scales = replace(
            pickled,
            key=pickled.key.replace(EXTRA_STATE, _SCALES),
            data=_read_scales(chunk.get_submodule(path)) if stored is None else None,
        )
        if scales.data is not None or (stored is not None and scales.unique_key in stored):
            plain[f"{path}.{_SCALES}"] = scales
    return plain


def load_with_scales(chunk: torch.nn.Module, state: Mapping[str, Any]) -> None:
    """Load the weights and scales in `state`, which has the form that `with_plain_scales` returns, into `chunk`."""
    weights = {key: value for key, value in state.items() if not key.endswith(_SCALES)}
    missing, unexpected = chunk.load_state_dict(weights, strict=False)
    assert not unexpected and all(key.endswith(EXTRA_STATE) for key in missing), (missing, unexpected)
    for key, scales in state.items():
        if key.endswith(_SCALES):
            _write_scales(chunk.get_submodule(key.removesuffix(f".{_SCALES}")), get_fp8_recipe(chunk.config), scales)


def _read_scales(layer: Any) -> dict[str, torch.Tensor] | None:
    """Return the scales of a layer on the CPU; None if it has none, for example before its first step."""
    meta = getattr(layer, "fp8_meta", {})
    if not all(hasattr(meta.get(part), name) for part, names in _PARTS.items() for name in names):
        return None
    return {f"{part}.{name}": getattr(meta[part], name).cpu() for part, names in _PARTS.items() for name in names}


def _write_scales(layer: Any, recipe: Any, scales: Mapping[str, torch.Tensor]) -> None:
    layer.fp8_meta["recipe"] = recipe
    layer.fp8_meta["num_gemms"] = len(scales["scaling_fwd.scale"]) // _SCALES_PER_GEMM
    layer.init_fp8_meta_tensors(recipe)
    for part, names in _PARTS.items():
        for name in names:
            getattr(layer.fp8_meta[part], name).copy_(scales[f"{part}.{name}"])
