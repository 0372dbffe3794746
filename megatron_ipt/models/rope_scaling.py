"""Scaled RoPE: the `rope_parameters` of config.json, our settings, and megatron-core's arguments.

Does not import torch, which the planner must not need.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from megatron_ipt.config.model import ROPE_TYPES, ModelConfig

if TYPE_CHECKING:
    from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding

_FIELDS = {
    "linear": {"factor": "rope_factor"},
    "llama3": {
        "factor": "rope_factor",
        "original_max_position_embeddings": "rope_original_max_position_embeddings",
        "low_freq_factor": "rope_low_freq_factor",
        "high_freq_factor": "rope_high_freq_factor",
    },
    "yarn": {
        "factor": "rope_factor",
        "original_max_position_embeddings": "rope_original_max_position_embeddings",
        "beta_fast": "rope_beta_fast",
        "beta_slow": "rope_beta_slow",
        "attention_factor": "rope_attention_factor",
        "truncate": "rope_truncate",
    },
}
"""Settings of `ModelConfig` by the keys of `rope_parameters`, for each type with parameters."""


def unsupported_rope(parameters: Mapping[str, Any]) -> object:
    """Return `parameters` if they are not supported (unknown or per-layer types, partial rotary), else None."""
    kind = parameters.get("rope_type")
    if kind not in ROPE_TYPES or (kind != "default" and parameters.get("partial_rotary_factor", 1.0) != 1.0):
        return dict(parameters)
    attention_factor = _attention_factor(parameters) if kind == "yarn" else None
    if attention_factor not in (None, 1.0) and parameters["factor"] <= 1:
        return dict(parameters)  # megatron-core scales attention by a multiple of log(factor)
    return None


def rope_settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the `rope_parameters` that transformers has read to settings of `ModelConfig`."""
    kind = parameters["rope_type"]
    values = {**parameters, "attention_factor": _attention_factor(parameters) if kind == "yarn" else None}
    given = {ours: values[theirs] for theirs, ours in _FIELDS.get(kind, {}).items() if values.get(theirs) is not None}
    return {"rotary_base": float(parameters["rope_theta"]), "rope_type": kind, **given}


def rope_parameters(model: ModelConfig) -> dict[str, Any]:
    """Return `rope_parameters` for the config.json of `model`."""
    values = {theirs: getattr(model, ours) for theirs, ours in _FIELDS.get(model.rope_type, {}).items()}
    return {
        "rope_type": model.rope_type,
        "rope_theta": model.rotary_base,
        **{name: value for name, value in values.items() if value is not None},
    }


def rope_layers(num_layers: int, no_rope_freq: int | None) -> list[int]:
    """Return 1 for each layer with RoPE and 0 for each without, which is every `no_rope_freq`-th."""
    return [int(no_rope_freq is None or number % no_rope_freq != 0) for number in range(1, num_layers + 1)]


def gpt_arguments(model: ModelConfig) -> dict[str, Any]:
    """Return the arguments of megatron-core's GPTModel for RoPE."""
    return {
        "position_embedding_type": "yarn" if model.rope_type == "yarn" else "rope",
        "rotary_base": model.rotary_base,
        "seq_len_interpolation_factor": model.rope_factor if model.rope_type == "linear" else None,
    }


def yarn_attributes(model: ModelConfig) -> dict[str, Any]:
    """Return the attributes for YaRN that megatron-core reads from TransformerConfig without declaring them."""
    if model.rope_type != "yarn":
        return {}
    mscale = mscale_all_dim = None
    if model.rope_attention_factor is not None:  # megatron-core: (0.1 mscale log(factor) + 1) / (the same for all_dim)
        mscale_all_dim = 0.0
        mscale = (model.rope_attention_factor - 1) / (0.1 * math.log(model.rope_factor)) if model.rope_factor > 1 else 1
    return {
        "yarn_rotary_scaling_factor": model.rope_factor,
        "yarn_original_max_position_embeddings": model.rope_original_max_position_embeddings,
        "yarn_beta_fast": model.rope_beta_fast,
        "yarn_beta_slow": model.rope_beta_slow,
        "yarn_mscale": mscale,
        "yarn_mscale_all_dim": mscale_all_dim,
        "yarn_correction_range_round_to_int": model.rope_truncate,
    }


def scale_frequencies(embedding: RotaryEmbedding, model: ModelConfig) -> None:
    """Scale the frequencies as Llama 3.1 does.

    Not done by GPTModel, which passes on only the factor, and assumes an original length of 8192 and low and high
    frequency factors of 1 and 4.
    """
    if model.rope_type == "llama3":
        embedding.inv_freq = embedding._apply_scaling(
            embedding.inv_freq,
            factor=model.rope_factor,
            low_freq_factor=model.rope_low_freq_factor,
            high_freq_factor=model.rope_high_freq_factor,
            original_max_position_embeddings=model.rope_original_max_position_embeddings,
        )


def _attention_factor(parameters: Mapping[str, Any]) -> float | None:
    """Return the factor of YaRN's sines and cosines as transformers computes it; None for 0.1 log(factor) + 1."""
    given, mscale, all_dim = (parameters.get(name) for name in ("attention_factor", "mscale", "mscale_all_dim"))
    if given is not None:
        return float(given)
    if not mscale or not all_dim or parameters["factor"] <= 1:
        return None
    log = 0.1 * math.log(parameters["factor"])
    return float((mscale * log + 1) / (all_dim * log + 1))
