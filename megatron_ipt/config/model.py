"""The shape of a model, in megatron-core's terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from megatron_ipt.config.model_families import MODEL_FAMILIES
from megatron_ipt.config.model_presets import MODEL_PRESETS
from megatron_ipt.config.registry import OneOf
from megatron_ipt.config.settings import IdentityUnlessDefault, NotIdentity, Settings

RopeType = Literal["default", "linear", "llama3", "yarn"]
ROPE_TYPES: tuple[str, ...] = get_args(RopeType)


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
    rope_type: Annotated[RopeType, IdentityUnlessDefault] = Field(
        "default", description="how RoPE is scaled to longer sequences; llama3 is that of Llama 3.1 and later"
    )
    rope_factor: Annotated[float, IdentityUnlessDefault] = Field(
        1.0, gt=0, description="linear, llama3, yarn: factor by which sequences are longer"
    )
    rope_original_max_position_embeddings: Annotated[int, IdentityUnlessDefault] = Field(
        8192, ge=1, description="llama3, yarn: sequence length before scaling"
    )
    rope_low_freq_factor: Annotated[float, IdentityUnlessDefault] = Field(
        1.0, gt=0, description="llama3: waves longer than the original length / this are scaled in full"
    )
    rope_high_freq_factor: Annotated[float, IdentityUnlessDefault] = Field(
        4.0, gt=0, description="llama3: waves shorter than the original length / this are not scaled"
    )
    rope_beta_fast: Annotated[float, IdentityUnlessDefault] = Field(
        32.0, gt=0, description="yarn: waves with more turns than this in the original length are not scaled"
    )
    rope_beta_slow: Annotated[float, IdentityUnlessDefault] = Field(
        1.0, gt=0, description="yarn: waves with fewer turns than this in the original length are scaled in full"
    )
    rope_attention_factor: Annotated[float | None, IdentityUnlessDefault] = Field(
        None, gt=0, description="yarn: factor of queries and keys; not set: 0.1 log(factor) + 1"
    )
    rope_truncate: Annotated[bool, IdentityUnlessDefault] = Field(
        True, description="yarn: round the bounds between scaled and unscaled frequencies to whole dimensions"
    )
    no_rope_freq: Annotated[int | None, IdentityUnlessDefault] = Field(
        None, ge=1, description="every so many layers, one has no RoPE (SmolLM3: 4); not set: all have it"
    )
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
