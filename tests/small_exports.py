"""Exports of small models with random weights, written as the converter does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from small_models import tensors_of

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.conversion.core_model import build_core_model, hf_tensors
from megatron_ipt.conversion.hf_config import write_hf_config
from megatron_ipt.conversion.hf_shards import write_weights
from megatron_ipt.parallel.groups import Groups
from megatron_ipt.tokenization.tokenizer_export import export_tokenizer
from megatron_ipt.tokenization.transformers_tokenizer import open_tokenizer

_SHAPE = {
    "num_layers": 2,
    "hidden_size": 32,
    "ffn_hidden_size": 64,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "rotary_base": 5000.0,
}


def write_export(tokenizer_folder: Path, folder: Path, values: Mapping[str, Any], groups: Groups) -> None:
    """Export a model with the architecture `values`, whose documents begin with BOS if the tokenizer has one."""
    tokenizer = open_tokenizer(tokenizer_folder)
    shape = ModelConfig(**{**_SHAPE, "vocab_size": len(tokenizer), **values})
    folder.mkdir()
    bos_id, eos_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    write_hf_config(folder, shape, torch.float32, {"bos_token_id": bos_id, "eos_token_id": eos_id})
    export_tokenizer(tokenizer, folder, adds_bos=bos_id is not None)
    core = build_core_model(shape, groups, bf16=False, seq_length=64, on_meta=True)
    chance = torch.Generator().manual_seed(0)
    shapes = hf_tensors(core, torch.float32).shapes
    write_weights(folder, tensors_of({name: torch.randn(size, generator=chance) / 5 for name, size in shapes.items()}))
