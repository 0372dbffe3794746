"""The shape of a model, in megatron-core's terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from megatron_ipt.config.model_families import MODEL_FAMILIES
from megatron_ipt.config.model_presets import MODEL_PRESETS
from megatron_ipt.config.registry import OneOf
from megatron_ipt.config.settings import NotIdentity, Settings


class ModelConfig(Settings):
    """A decoder-only transformer with RMSNorm, SwiGLU, RoPE and grouped-query attention."""

    preset: Annotated[Annotated[str, OneOf(MODEL_PRESETS)] | None, NotIdentity] = Field(
        None, description="name of a published model shape; the other settings override it"
    )
    family: Annotated[str, OneOf(MODEL_FAMILIES)] = Field(
        "mistral", description="Hugging Face architecture (model_type in config.json)"
    )
    num_layers: int = Field(2, ge=1, description="transformer layers")
    hidden_size: int = Field(128, ge=1, description="width of the residual stream")
    ffn_hidden_size: int = Field(352, ge=1, description="width of the SwiGLU feed-forward layer")
    num_attention_heads: int = Field(8, ge=1, description="query heads")
    num_query_groups: int = Field(8, ge=1, description="key-value heads (grouped-query attention)")
    kv_channels: int | None = Field(
        None, ge=1, description="width of a head; hidden_size / num_attention_heads if not set"
    )
    vocab_size: int = Field(32000, ge=1, description="rows of the embedding, without padding")
    max_position_embeddings: int = Field(4096, ge=1, description="maximum sequence length of the exported model")
    untie_embeddings_and_output_weights: bool = Field(True, description="separate LM head")
    rotary_base: float = Field(10000.0, gt=0, description="RoPE theta")
    layernorm_epsilon: float = Field(1e-5, ge=0, description="RMSNorm epsilon")
    sliding_window: int | None = Field(
        None, ge=1, description="tokens that each token attends to, itself included; not set: all before it"
    )
    init_method_std: float = Field(0.02, ge=0, description="standard deviation of the initial weights")
    attention_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on attention probabilities")
    hidden_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the residual branches")

    @classmethod
    def implied(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The shape of the preset, where one is named."""
        return MODEL_PRESETS.get(str(given.get("preset")), {})

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.kv_channels or self.hidden_size // self.num_attention_heads
