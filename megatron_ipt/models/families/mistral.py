"""Mistral: https://huggingface.co/docs/transformers/model_doc/mistral."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.models.model_family import ModelFamily

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class Mistral(ModelFamily):
    """A decoder with a sliding window in every layer, or in none."""

    architecture = "MistralForCausalLM"
    own_attributes = frozenset({"sliding_window"})

    def sliding_window(self, hf: PretrainedConfig) -> int | None:
        window: int | None = hf.sliding_window
        return window

    def hf_values(self, model: ModelConfig) -> dict[str, Any]:
        return {**super().hf_values(model), "sliding_window": model.sliding_window}
