"""Megatron-LM's arguments, made from our ModelConfig: as a checkpoint holds them, and as flags.

Does not import torch.
"""

from __future__ import annotations

import math
from typing import Any

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.conversion.megatron_lm.arguments import FIXED_FACTOR, LLAMA_3, REQUIRED, TRAINING, YARN
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.models.model_family import ModelFamily, load_family
from megatron_ipt.models.weight_maps import QK_NORMS, QKV_BIAS

_SAME = (
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "num_query_groups",
    "max_position_embeddings",
    "untie_embeddings_and_output_weights",
    "no_rope_freq",
    "vocab_size",
    *TRAINING,
)
"""Arguments that are called as our settings are."""


def arguments_of(model: ModelConfig) -> dict[str, Any]:
    """The arguments that Megatron-LM's --use-checkpoint-args and its checks of a checkpoint read, for `model`.

    Raises:
        UserError: Megatron-LM has no arguments for such a model.
    """
    if problems := [*_inexpressible(model)]:
        raise UserError.of(problems)
    settings = load_family(model.family).transformer_settings()
    return {
        **{name: value for name, (value, _) in REQUIRED.items()},
        **{name: getattr(model, name) for name in _SAME},
        "kv_channels": model.head_dim,
        "group_query_attention": model.num_query_groups != model.num_attention_heads,
        "norm_epsilon": model.layernorm_epsilon,  # as earlier releases call it
        "layernorm_epsilon": model.layernorm_epsilon,
        "position_embedding_type": "yarn" if model.rope_type == "yarn" else "rope",
        "use_rotary_position_embeddings": model.rope_type != "yarn",
        "add_position_embedding": True,
        "rotary_base": int(model.rotary_base),
        "rotary_interleaved": False,
        "rotary_seq_len_interpolation_factor": int(model.rope_factor) if model.rope_type == "linear" else None,
        "use_rope_scaling": model.rope_type == "llama3",
        "rope_scaling_factor": model.rope_factor if model.rope_type == "llama3" else FIXED_FACTOR,
        **_yarn_arguments(model),
        "window_size": None if model.sliding_window is None else (model.sliding_window - 1, 0),
        "qk_layernorm": bool(settings.get("qk_layernorm")),
        "add_qkv_bias": bool(settings.get("add_qkv_bias")),
        "seq_length": model.max_position_embeddings,
        "apply_layernorm_1p": False,
        "apply_query_key_layer_scaling": False,
        "num_experts": None,
    }


def flags_of(model: ModelConfig) -> list[str]:
    """The flags that Megatron-LM needs for `model` besides --use-checkpoint-args, which passes over some arguments."""
    stored = arguments_of(model)
    switches = [name for name in ("qk_layernorm", "use_rope_scaling") if stored[name]]
    values = {
        "norm_epsilon": model.layernorm_epsilon,
        "rotary_seq_len_interpolation_factor": stored["rotary_seq_len_interpolation_factor"],
        "no_rope_freq": model.no_rope_freq,
        "window_size": ",".join(map(str, stored["window_size"] or ())) or None,
        "rope_scaling_factor": model.rope_factor if model.rope_type == "llama3" else None,
        **{name: value for name, value in _yarn_arguments(model).items() if not isinstance(value, bool)},
    }
    if model.rope_type == "yarn":
        switches.append(f"{'' if model.rope_truncate else 'no_'}yarn_correction_range_round_to_int")
    given = [*switches, *(f"{name}={value}" for name, value in values.items() if value is not None)]
    return [f"--{name.partition('=')[0].replace('_', '-')}{''.join(name.partition('=')[1:])}" for name in given]


def _yarn_arguments(model: ModelConfig) -> dict[str, Any]:
    if model.rope_type != "yarn":
        return {}
    mscale = 1.0
    if model.rope_attention_factor is not None and model.rope_factor > 1:
        mscale = (model.rope_attention_factor - 1) / (0.1 * math.log(model.rope_factor))
    values = {theirs: getattr(model, ours) for ours, (theirs, _) in YARN.items()}
    return {**values, "mscale": mscale, "mscale_all_dim": 0.0}


def _inexpressible(model: ModelConfig) -> list[Problem]:
    remedy = "Megatron-LM has no argument for it: load the weights in code"
    family = load_family(model.family)
    found: dict[str, object] = {}
    layer, plain = ({weight_map.core for weight_map in maps} for maps in (family.layer, ModelFamily.layer))
    if not plain <= layer <= plain | {QKV_BIAS.core, *(weight_map.core for weight_map in QK_NORMS)}:
        found["family"] = model.family
    if model.rotary_base != int(model.rotary_base):
        found["rotary_base"] = model.rotary_base
    if model.rope_type == "linear" and model.rope_factor != int(model.rope_factor):
        found["rope_factor"] = model.rope_factor
    if model.rope_type == "llama3":
        found |= {name: getattr(model, name) for name, value in LLAMA_3.items() if getattr(model, name) != value}
    return [
        Problem(f"model.{name}", value, "not a value that Megatron-LM can have", remedy)
        for name, value in found.items()
    ]
