"""The model families: each is a module of `megatron_ipt.models.families` and a line here."""

from __future__ import annotations

from megatron_ipt.config.registry import Registry

MODEL_FAMILIES = Registry(
    "megatron_ipt.model_families",
    {
        "mistral": "megatron_ipt.models.families.mistral:Mistral",
        "llama": "megatron_ipt.models.families.llama:Llama",
    },
)
"""Subclasses of `megatron_ipt.models.model_family.ModelFamily` by their `model_type` in config.json."""
