"""Our ModelConfig, made from Megatron-LM's arguments, which its checkpoints hold.

Does not import torch. Releases of Megatron-LM differ in the arguments they have; one that is not there has its default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.models.rope_scaling import rope_layers

Arguments = Mapping[str, Any]

REQUIRED: dict[str, tuple[object, object]] = {
    "normalization": ("RMSNorm", "LayerNorm"),
    "swiglu": (True, False),
    "add_bias_linear": (False, True),
    "rotary_percent": (1.0, 1.0),
}
"""Arguments with the value that a model must have, and the default in Megatron-LM."""
TRAINING = ("init_method_std", "attention_dropout", "hidden_dropout")
_NOT_SUPPORTED = (
    "activation_func_clamp_value",
    "apply_layernorm_1p",
    "apply_residual_connection_post_layernorm",
    "attention_output_gate",
    "experimental_attention_variant",
    "glu_linear_offset",
    "heterogeneous_layers_config_encoded_json",
    "heterogeneous_layers_config_path",
    "hybrid_layer_pattern",
    "hybrid_override_pattern",
    "is_hybrid_model",
    "layernorm_zero_centered_gamma",
    "mtp_num_layers",
    "multi_latent_attention",
    "num_experts",
    "openai_gelu",
    "qk_l2_norm",
    "quick_geglu",
    "retro_add_retriever",
    "rotary_interleaved",
    "softmax_scale",
    "squared_relu",
    "use_mup",
    "window_attn_skip_freq",
)
"""Arguments that change what a model computes, in a way that ours cannot; their defaults are false, 0 or None."""
_REMEDY = "the trainer has no counterpart: convert a model without it"
YARN = {
    "rope_factor": ("rotary_scaling_factor", 1.0),
    "rope_original_max_position_embeddings": ("yarn_original_max_position_embeddings", 4096),
    "rope_beta_fast": ("yarn_beta_fast", 32.0),
    "rope_beta_slow": ("yarn_beta_slow", 1.0),
    "rope_truncate": ("yarn_correction_range_round_to_int", True),
}
"""Our settings of YaRN, the arguments they come from, and the defaults that Megatron-LM gives to those left out."""
FIXED_FACTOR = 8.0
LLAMA_3 = {
    "rope_original_max_position_embeddings": 8192,
    "rope_low_freq_factor": 1.0,
    "rope_high_freq_factor": 4.0,
}
"""The constants that Megatron-LM's --use-rope-scaling implies; only the factor is an argument."""


def model_of(arguments: Arguments, vocab_size: int) -> ModelConfig:
    """Translate Megatron-LM's arguments to the shape of a model.

    Args:
        arguments: by name, as its parser names them.
        vocab_size: rows of the embedding, without padding.

    Raises:
        UserError: listing everything about the model that cannot be converted.
    """
    if problems := [*_problems(arguments)]:
        raise UserError.of(problems)
    heads = arguments["num_attention_heads"]
    values: dict[str, Any] = {
        "num_layers": arguments["num_layers"],
        "hidden_size": arguments["hidden_size"],
        "ffn_hidden_size": arguments["ffn_hidden_size"],
        "num_attention_heads": heads,
        "num_query_groups": arguments["num_query_groups"] if arguments.get("group_query_attention") else heads,
        "kv_channels": _head_width(arguments),
        "vocab_size": vocab_size,
        "max_position_embeddings": arguments["max_position_embeddings"],
        "untie_embeddings_and_output_weights": bool(arguments.get("untie_embeddings_and_output_weights")),
        "layernorm_epsilon": _given(arguments, "norm_epsilon", _given(arguments, "layernorm_epsilon", 1e-5)),
        "sliding_window": _window(arguments),
        "no_rope_freq": _no_rope_freq(arguments),
        "rotary_base": float(arguments.get("rotary_base", 10000)),
        **_rope(arguments),
        **{name: arguments[name] for name in TRAINING if arguments.get(name) is not None},
    }
    return ModelConfig(family=_family(arguments, values), **values)


def warnings_of(model: ModelConfig) -> list[str]:
    """Describe where Megatron-LM computes something other than its arguments say."""
    if model.rope_type == "llama3" and model.rope_factor != FIXED_FACTOR:
        return [
            f"rope_scaling_factor = {model.rope_factor:g}: Megatron-LM as megatron-core 0.19 ships it computes with "
            f"{FIXED_FACTOR:g} whatever the argument says; compare logits"
        ]
    return []


def _problems(arguments: Arguments) -> list[Problem]:
    found = {
        name: arguments.get(name, default)
        for name, (needed, default) in REQUIRED.items()
        if arguments.get(name, default) != needed
    }
    found |= {name: value for name in _NOT_SUPPORTED if (value := arguments.get(name))}
    if _position_embedding(arguments) not in ("rope", "yarn"):
        found["position_embedding_type"] = _position_embedding(arguments)
    if arguments.get("spec") not in (None, ["local"]):
        found["spec"] = arguments["spec"]
    if arguments.get("softmax_type", "vanilla") != "vanilla":
        found["softmax_type"] = arguments["softmax_type"]
    if arguments.get("qk_layernorm") and arguments.get("add_qkv_bias"):
        found["qk_layernorm"] = "true, with add_qkv_bias"
    window = arguments.get("window_size")
    if window is not None and tuple(window)[1] != 0:
        found["window_size"] = window
    missing = [name for name in _ALWAYS if arguments.get(name) is None]
    return [
        *(Problem(f"args.{name}", value, "not supported", _REMEDY) for name, value in found.items()),
        *(
            Problem(f"args.{name}", None, "the checkpoint does not say", "save it with its arguments")
            for name in missing
        ),
    ]


_ALWAYS = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "max_position_embeddings")


def _position_embedding(arguments: Arguments) -> object:
    if arguments.get("use_rotary_position_embeddings"):
        return "rope"
    return arguments.get("position_embedding_type", "learned_absolute")


def _head_width(arguments: Arguments) -> int | None:
    width = arguments.get("kv_channels")
    return width if width and width * arguments["num_attention_heads"] != arguments["hidden_size"] else None


def _window(arguments: Arguments) -> int | None:
    """Tokens that each token attends to; megatron-core counts those to its left, -1 for all of them."""
    window = arguments.get("window_size")
    return None if window is None or window[0] < 0 else int(window[0]) + 1


def _no_rope_freq(arguments: Arguments) -> int | None:
    """Every how many layers one has no RoPE; Megatron-LM may have it as a list of 1 for each of those, 0 for others.

    Raises:
        UserError: the list has another pattern.
    """
    given, layers = arguments.get("no_rope_freq"), arguments["num_layers"]
    if given is None or isinstance(given, int):
        return given
    pattern = [1 - value for value in given]
    found = [freq for freq in (None, *range(1, layers + 1)) if rope_layers(layers, freq) == pattern]
    if not found:
        raise UserError("args.no_rope_freq", given, "not every Nth layer", _REMEDY)
    return found[0]


def _rope(arguments: Arguments) -> dict[str, Any]:
    """Our settings of scaled RoPE."""
    if _position_embedding(arguments) == "yarn":
        values = {ours: _given(arguments, theirs, default) for ours, (theirs, default) in YARN.items()}
        return {"rope_type": "yarn", **values, "rope_attention_factor": _attention_factor(arguments)}
    if arguments.get("use_rope_scaling"):
        return {
            "rope_type": "llama3",
            "rope_factor": _given(arguments, "rope_scaling_factor", FIXED_FACTOR),
            **LLAMA_3,
        }
    if factor := arguments.get("rotary_seq_len_interpolation_factor"):
        return {"rope_type": "linear", "rope_factor": float(factor)}
    return {}


def _attention_factor(arguments: Arguments) -> float | None:
    """YaRN's factor of queries and keys; None for the usual 0.1 log(factor) + 1."""
    mscale, all_dim = _given(arguments, "mscale", 1.0), _given(arguments, "mscale_all_dim", 0.0)
    factor = _given(arguments, "rotary_scaling_factor", 1.0)
    if factor <= 1 or (mscale, all_dim) == (1.0, 0.0):
        return None
    log = 0.1 * math.log(factor)
    return float((mscale * log + 1) / (all_dim * log + 1))


def _given(arguments: Arguments, name: str, default: Any) -> Any:
    value = arguments.get(name)
    return default if value is None else value


def _family(arguments: Arguments, values: Mapping[str, Any]) -> str:
    """The Hugging Face architecture that has what the model has."""
    if arguments.get("qk_layernorm"):
        return "qwen3"
    if arguments.get("add_qkv_bias"):
        return "qwen2"
    if values["no_rope_freq"] is not None:
        return "smollm3"
    is_llama = values["sliding_window"] is None and values["hidden_size"] % values["num_attention_heads"] == 0
    return "llama" if is_llama else "mistral"
