"""config.json of a Hugging Face folder and our ModelConfig, each made from the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.conversion.weight_maps import FAMILIES
from megatron_ipt.errors import Problem, UserError

_CONFIG_NAME = "config.json"
_REMEDY = "only plain Mistral and Llama models can be converted"


def read_model_config(folder: Path) -> ModelConfig:
    """The shape of the model in `folder`, as its transformers class reads it.

    Raises:
        UserError: listing everything about the model that we cannot represent.
    """
    file, hf = folder / _CONFIG_NAME, _load_hf_config(folder)
    if problems := _unsupported(file, hf):
        raise UserError.of(problems)
    return ModelConfig(
        family=hf.model_type,
        num_layers=hf.num_hidden_layers,
        hidden_size=hf.hidden_size,
        ffn_hidden_size=hf.intermediate_size,
        num_attention_heads=hf.num_attention_heads,
        num_query_groups=hf.num_key_value_heads,
        kv_channels=hf.head_dim if hf.head_dim and hf.head_dim * hf.num_attention_heads != hf.hidden_size else None,
        vocab_size=hf.vocab_size,
        max_position_embeddings=hf.max_position_embeddings,
        untie_embeddings_and_output_weights=not hf.tie_word_embeddings,
        rotary_base=float(hf.rope_parameters["rope_theta"]),
        layernorm_epsilon=hf.rms_norm_eps,
        sliding_window=_own_attributes(hf).get("sliding_window"),
        init_method_std=hf.initializer_range,
        attention_dropout=hf.attention_dropout or 0.0,
    )


def unread_attributes(folder: Path) -> dict[str, Any]:
    """Attributes that config.json sets and that another family's class reads, but not this model's."""
    hf = _load_hf_config(folder)
    unread = frozenset[str]().union(*(family.own_attributes for family in FAMILIES.values()))
    unread -= FAMILIES[hf.model_type].own_attributes
    return {name: value for name in sorted(unread) if (value := getattr(hf, name, None))}


def write_hf_config(
    folder: Path, model: ModelConfig, dtype: torch.dtype, *, bos_id: int | None, eos_id: int | None
) -> list[Path]:
    """Write config.json and generation_config.json for `model`; the files."""
    family = FAMILIES[model.family]
    config_class = getattr(transformers, family.config_class)
    window = {"sliding_window": model.sliding_window} if "sliding_window" in family.own_attributes else {}
    config = config_class(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.ffn_hidden_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=model.num_query_groups,
        head_dim=model.head_dim,
        max_position_embeddings=model.max_position_embeddings,
        tie_word_embeddings=not model.untie_embeddings_and_output_weights,
        rope_parameters={"rope_type": "default", "rope_theta": model.rotary_base},
        rms_norm_eps=model.layernorm_epsilon,
        initializer_range=model.init_method_std,
        attention_dropout=model.attention_dropout,
        bos_token_id=bos_id,
        eos_token_id=eos_id,
        architectures=[family.architecture],
        dtype=dtype,
        **window,
    )
    config.save_pretrained(str(folder))
    _add_former_names(folder / _CONFIG_NAME, model, dtype)
    transformers.GenerationConfig(bos_token_id=bos_id, eos_token_id=eos_id).save_pretrained(str(folder))
    return [folder / _CONFIG_NAME, folder / "generation_config.json"]


def _load_hf_config(folder: Path) -> Any:
    file = folder / _CONFIG_NAME
    if not file.is_file():
        raise UserError("input", folder, f"it holds no {_CONFIG_NAME}", "name a Hugging Face model folder")
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
        family, layers = given.get("model_type"), given.get("per_layer_config")
        if family in FAMILIES and not layers:
            hf: Any = transformers.AutoConfig.from_pretrained(str(folder))
            family = hf.model_type  # a Mistral with layer_types is a Ministral to transformers
    except (ArithmeticError, AttributeError, LookupError, StrictDataclassError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError("input", file, f"transformers cannot read it: {reason}", "fetch the folder again") from error
    if family not in FAMILIES:
        raise UserError(f"{file}: model_type", family, "no such family here", f"one of {', '.join(FAMILIES)}")
    if layers:
        raise UserError(f"{file}: per_layer_config", layers, "not supported", _REMEDY)
    return hf


def _own_attributes(hf: Any) -> dict[str, Any]:
    return {name: getattr(hf, name, None) for name in FAMILIES[hf.model_type].own_attributes}


def _unsupported(file: Path, hf: Any) -> list[Problem]:
    """Attributes that the model's class reads and our models do not support; those it does not read have no effect."""
    own = _own_attributes(hf)
    window = own.get("sliding_window")
    found = {
        "rope_scaling": None if hf.rope_parameters["rope_type"] == "default" else hf.rope_parameters,
        "attention_bias": own.get("attention_bias"),
        "mlp_bias": own.get("mlp_bias"),
        "hidden_act": None if hf.hidden_act == "silu" else hf.hidden_act,
        "is_causal": None if getattr(hf, "is_causal", True) else "false",
        "sliding_window": None if window is None or window > 0 else str(window),
        "layer_types": _other_layer_types(hf, window),
        "quantization_config": getattr(hf, "quantization_config", None),
    }
    return [Problem(f"{file}: {key}", value, "not supported", _REMEDY) for key, value in found.items() if value]


def _other_layer_types(hf: Any, window: int | None) -> list[str] | None:
    """`layer_types`, which serving engines read and transformers' classes do not, where the two differ."""
    plain = "full_attention" if window is None else "sliding_attention"
    types: list[str] | None = getattr(hf, "layer_types", None)
    return types if types and set(types) != {plain} else None


def _add_former_names(file: Path, model: ModelConfig, dtype: torch.dtype) -> None:
    """The names that transformers 4 and engines built on it read; without rope_theta they would take its default."""
    values = json.loads(file.read_text(encoding="utf-8"))
    values |= {"rope_theta": model.rotary_base, "torch_dtype": str(dtype).removeprefix("torch.")}
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
