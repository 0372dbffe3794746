"""The registry of model families: each is a module in `megatron_ipt.models.families` and a line here."""

from __future__ import annotations

from megatron_ipt.config.registry import Registry

MODEL_FAMILIES = Registry(
    "megatron_ipt.model_families",
    {
        "mistral": "megatron_ipt.models.families.mistral:Mistral",
        "llama": "megatron_ipt.models.families.llama:Llama",
        "qwen2": "megatron_ipt.models.families.qwen2:Qwen2",
        "qwen3": "megatron_ipt.models.families.qwen3:Qwen3",
        "smollm3": "megatron_ipt.models.families.smollm3:SmolLM3",
        "olmo2": "megatron_ipt.models.families.olmo2:Olmo2",
    },
)
"""Subclasses of `megatron_ipt.models.model_family.ModelFamily` by their `model_type` in config.json."""

INEXPRESSIBLE_FAMILIES = {
    "olmo3": "it alternates sliding-window and full attention, each with a RoPE of its own",
    "gemma2": "it has norms before and after attention and feed-forward, and soft-caps its logits",
    "gemma3_text": "it has norms before and after attention and feed-forward, and two RoPE bases",
}
"""Architectures that megatron-core's GPTModel (0.16.1) cannot express, with the reason, by `model_type`."""
