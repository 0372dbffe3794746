"""config.json of a Hugging Face folder and our ModelConfig, each made from the other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from pydantic import ValidationError
from transformers import PretrainedConfig

from megatron_ipt.config.checks import find_shape_problems
from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.model_families import INEXPRESSIBLE_FAMILIES, MODEL_FAMILIES
from megatron_ipt.config.validation import problems_of
from megatron_ipt.conversion.hf_files import CONFIG_NAME, GENERATION_NAME
from megatron_ipt.conversion.sources import require_config
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.models.model_family import load_family
from megatron_ipt.models.rope_scaling import rope_parameters

_NO_TOKEN_IDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
"""In place of the defaults of a configuration class, which belong to one tokenizer."""
_REMEDY = "the trainer has no counterpart: convert a model without it"


def read_model_config(folder: Path) -> ModelConfig:
    """Read the shape of the model in `folder` as its transformers class reads it.

    Raises:
        UserError: listing everything about the model that cannot be converted.
    """
    hf = _load_hf_config(folder)
    family = load_family(hf.model_type)
    problems = [
        Problem(f"{folder / CONFIG_NAME}: {key}", value, "not supported", _REMEDY)
        for key, value in family.unsupported(hf).items()
        if value
    ]
    if problems:
        raise UserError.of(problems)
    return _model_config(folder / CONFIG_NAME, {"family": hf.model_type, **family.model_values(hf)})


def unread_attributes(folder: Path) -> dict[str, Any]:
    """Find attributes set in config.json that classes of another family read, but not those of this model's.

    Raises:
        UserError: config.json cannot be read.
    """
    hf = _load_hf_config(folder)
    of_any = frozenset[str]().union(*(load_family(name).own_attributes for name in MODEL_FAMILIES))
    unread = of_any - load_family(hf.model_type).own_attributes
    return {name: value for name in sorted(unread) if (value := getattr(hf, name, None))}


def write_hf_config(folder: Path, model: ModelConfig, dtype: torch.dtype, token_ids: Mapping[str, Any]) -> Path:
    """Write config.json for `model`.

    Args:
        folder: of the model.
        model: its shape.
        dtype: number format of the weights.
        token_ids: `bos_token_id`, `eos_token_id` and the like.
    """
    family = load_family(model.family)
    config = transformers.AutoConfig.for_model(
        model.family,
        **family.hf_values(model),
        **{**_NO_TOKEN_IDS, **token_ids},
        architectures=[family.architecture],
        dtype=dtype,
    )
    config.save_pretrained(str(folder))
    _add_former_names(folder / CONFIG_NAME, model, dtype)
    return folder / CONFIG_NAME


def write_generation_config(folder: Path, token_ids: Mapping[str, Any]) -> Path:
    """Write generation_config.json with nothing but `token_ids`."""
    transformers.GenerationConfig(**token_ids).save_pretrained(str(folder))
    return folder / GENERATION_NAME


def add_end_ids(eos: int | list[int] | None, more: Sequence[int]) -> int | list[int] | None:
    """Add the ids `more`, at which generation ends too, to an `eos_token_id`."""
    given = eos if isinstance(eos, list) else [] if eos is None else [eos]
    missing = [one for one in more if one not in given]
    return [*given, *missing] if missing else eos


def end_generation_at(folder: Path, more: Sequence[int]) -> None:
    """Add ids to the `eos_token_id` of the generation_config.json in `folder`, and leave all else as it is."""
    file = folder / GENERATION_NAME
    values = json.loads(file.read_text(encoding="utf-8"))
    eos = add_end_ids(values.get("eos_token_id"), more)
    if eos != values.get("eos_token_id"):
        file.write_text(json.dumps(values | {"eos_token_id": eos}, indent=2) + "\n", encoding="utf-8")


def _load_hf_config(folder: Path) -> PretrainedConfig:
    file = require_config(folder)
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
        family, layers = given.get("model_type"), given.get("per_layer_config")
        if family in MODEL_FAMILIES and not layers:
            hf = transformers.AutoConfig.from_pretrained(str(folder))
            family = hf.model_type  # transformers 5 makes a Ministral of a Mistral with layer_types
    except (ArithmeticError, AttributeError, LookupError, StrictDataclassError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError("input", file, f"transformers cannot read it: {reason}", "fetch the folder again") from error
    if family in INEXPRESSIBLE_FAMILIES:
        reason = f"megatron-core's GPTModel cannot express it: {INEXPRESSIBLE_FAMILIES[family]}"
        raise UserError(f"{file}: model_type", family, reason, f"convert one of {', '.join(MODEL_FAMILIES)}")
    if family not in MODEL_FAMILIES:
        raise UserError(
            f"{file}: model_type", family, "no such model family", f"convert one of {', '.join(MODEL_FAMILIES)}"
        )
    if layers:
        raise UserError(f"{file}: per_layer_config", layers, "not supported", _REMEDY)
    return hf


def _model_config(file: Path, values: Mapping[str, Any]) -> ModelConfig:
    """The model of these settings, which transformers takes as they are and first computes with."""
    try:
        model = ModelConfig(**values)
        problems = list(find_shape_problems(model))
    except ValidationError as error:
        problems = list(problems_of(ModelConfig, error))
    if problems:
        again = "fetch the folder again"
        raise UserError.of([Problem(f"{file}, as {one.field}", one.value, one.reason, again) for one in problems])
    return model


def _add_former_names(file: Path, model: ModelConfig, dtype: torch.dtype) -> None:
    """Add the names that transformers 4 and engines built on it read; without them they use other RoPE."""
    values = json.loads(file.read_text(encoding="utf-8"))
    values |= {"rope_theta": model.rotary_base, "torch_dtype": str(dtype).removeprefix("torch.")}
    if model.rope_type != "default":
        values["rope_scaling"] = rope_parameters(model)
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
