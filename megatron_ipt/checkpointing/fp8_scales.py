"""State of Transformer Engine's layers other than their weights, as plain tensors.

Only FP8's delayed scaling has such a state: scales, and the largest values of recent steps they are made of.
Transformer Engine hands it out as a pickle inside a tensor of bytes, which an allow-list cannot see through and which
it no longer takes back since 2.20. It is neither saved nor loaded: a checkpoint holds the tensors themselves, and one
without them starts with new ones, as every run does.
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
"""Of what a layer holds in `fp8_meta`: for the forward and the backward pass."""
_SCALES_OF_A_PRODUCT = 3  # input, weight and output, in the forward pass


def with_plain_scales(
    chunk: torch.nn.Module, state: Mapping[str, Any], stored: Collection[str] | None
) -> dict[str, Any]:
    """`state` with the scales in the place of the pickles.

    Args:
        chunk: the model that `state` is the sharded state of.
        state: what megatron-core would save.
        stored: to load: the names that the checkpoint holds, so that scales it lacks are not asked for; None to save.
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
    """Give `chunk` the weights and scales of `state`, what `with_plain_scales` described."""
    weights = {key: value for key, value in state.items() if not key.endswith(_SCALES)}
    missing, unexpected = chunk.load_state_dict(weights, strict=False)
    assert not unexpected and all(key.endswith(EXTRA_STATE) for key in missing), (missing, unexpected)
    for key, scales in state.items():
        if key.endswith(_SCALES):
            _write_scales(chunk.get_submodule(key.removesuffix(f".{_SCALES}")), get_fp8_recipe(chunk.config), scales)


def _read_scales(layer: Any) -> dict[str, torch.Tensor] | None:
    """On the CPU; None from a layer without any, as each is before its first step."""
    meta = getattr(layer, "fp8_meta", {})
    if not all(hasattr(meta.get(part), name) for part, names in _PARTS.items() for name in names):
        return None
    return {f"{part}.{name}": getattr(meta[part], name).cpu() for part, names in _PARTS.items() for name in names}


def _write_scales(layer: Any, recipe: Any, scales: Mapping[str, torch.Tensor]) -> None:
    layer.fp8_meta["recipe"] = recipe
    layer.fp8_meta["num_gemms"] = len(scales["scaling_fwd.scale"]) // _SCALES_OF_A_PRODUCT
    layer.init_fp8_meta_tensors(recipe)
    for part, names in _PARTS.items():
        for name in names:
            getattr(layer.fp8_meta[part], name).copy_(scales[f"{part}.{name}"])
