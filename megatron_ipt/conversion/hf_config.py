"""config.json of a Hugging Face folder and our ModelConfig, each made from the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.conversion.weight_maps import FAMILIES
from megatron_ipt.errors import Problem, UserError

_CONFIG_NAME = "config.json"


def read_model_config(folder: Path) -> ModelConfig:
    """The shape of the model in `folder`.

    Raises:
        UserError: listing everything about the model that we cannot represent.
    """
    file = folder / _CONFIG_NAME
    if not file.is_file():
        raise UserError("input", folder, f"it holds no {_CONFIG_NAME}", "name a Hugging Face model folder")
    given = json.loads(file.read_text(encoding="utf-8"))
    if given.get("model_type") not in FAMILIES:
        raise UserError(
            f"{file}: model_type", given.get("model_type"), "no such family here", f"one of {', '.join(FAMILIES)}"
        )
    hf: Any = transformers.AutoConfig.from_pretrained(str(folder))
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
        sliding_window=getattr(hf, "sliding_window", None),
        init_method_std=hf.initializer_range,
        attention_dropout=hf.attention_dropout,
    )


def write_hf_config(
    folder: Path, model: ModelConfig, dtype: torch.dtype, *, bos_id: int | None, eos_id: int | None
) -> list[Path]:
    """Write config.json and generation_config.json for `model`; the files."""
    family = FAMILIES[model.family]
    config_class = getattr(transformers, family.config_class)
    window = {"sliding_window": model.sliding_window} if family.has_sliding_window else {}
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


def _unsupported(file: Path, hf: Any) -> list[Problem]:
    remedy = "only plain Mistral and Llama models can be converted"
    rope = {key: value for key, value in hf.rope_parameters.items() if key not in ("rope_theta", "rope_type")}
    found = {
        "rope_scaling": {"rope_type": hf.rope_parameters["rope_type"], **rope}
        if hf.rope_parameters["rope_type"] != "default"
        else None,
        "attention_bias": getattr(hf, "attention_bias", False),
        "mlp_bias": getattr(hf, "mlp_bias", False),
        "hidden_act": hf.hidden_act if hf.hidden_act != "silu" else None,
        "quantization_config": getattr(hf, "quantization_config", None),
    }
    return [Problem(f"{file}: {key}", value, "not supported", remedy) for key, value in found.items() if value]


def _add_former_names(file: Path, model: ModelConfig, dtype: torch.dtype) -> None:
    """The names that transformers 4 and engines built on it read; without rope_theta they would take its default."""
    values = json.loads(file.read_text(encoding="utf-8"))
    values |= {"rope_theta": model.rotary_base, "torch_dtype": str(dtype).removeprefix("torch.")}
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
