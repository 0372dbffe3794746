"""Settings for the architecture of a model, with megatron-core's names."""

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
    num_layers: int = Field(2, ge=1, description="number of transformer layers")
    hidden_size: int = Field(128, ge=1, description="width of the residual stream")
    ffn_hidden_size: int = Field(352, ge=1, description="width of the SwiGLU feed-forward layer")
    num_attention_heads: int = Field(8, ge=1, description="number of query heads")
    num_query_groups: int = Field(8, ge=1, description="number of key-value heads (grouped-query attention)")
    kv_channels: int | None = Field(
        None, ge=1, description="head dimension; hidden_size / num_attention_heads if not set"
    )
    vocab_size: int = Field(32000, ge=1, description="vocabulary size: rows of the embedding, without padding")
    max_position_embeddings: int = Field(4096, ge=1, description="maximum sequence length of the exported model")
    untie_embeddings_and_output_weights: bool = Field(True, description="separate LM head")
    rotary_base: float = Field(10000.0, gt=0, description="RoPE theta")
    rope_type: Annotated[RopeType, IdentityUnlessDefault] = Field(
        "default", description="RoPE scaling for longer sequences; llama3: as in Llama 3.1 and later"
    )
    rope_factor: Annotated[float, IdentityUnlessDefault] = Field(
        1.0, gt=0, description="linear, llama3, yarn: factor by which the context is extended"
    )
    rope_original_max_position_embeddings: Annotated[int, IdentityUnlessDefault] = Field(
        8192, ge=1, description="llama3, yarn: sequence length before scaling"
    )
    rope_low_freq_factor: Annotated[float, IdentityUnlessDefault] = Field(
        1.0, gt=0, description="llama3: wavelengths above the original length / this are scaled fully"
    )
    rope_high_freq_factor: Annotated[float, IdentityUnlessDefault] = Field(
        4.0, gt=0, description="llama3: wavelengths below the original length / this are not scaled"
    )
    rope_beta_fast: Annotated[float, IdentityUnlessDefault] = Field(
        32.0, gt=0, description="yarn: frequencies with more rotations than this in the original length are not scaled"
    )
    rope_beta_slow: Annotated[float, IdentityUnlessDefault] = Field(
        1.0,
        gt=0,
        description="yarn: frequencies with fewer rotations than this in the original length are scaled fully",
    )
    rope_attention_factor: Annotated[float | None, IdentityUnlessDefault] = Field(
        None, gt=0, description="yarn: scale of the rotated queries and keys; 0.1 ln(rope_factor) + 1 if not set"
    )
    rope_truncate: Annotated[bool, IdentityUnlessDefault] = Field(
        True, description="yarn: round the bounds between scaled and unscaled frequencies to whole dimensions"
    )
    no_rope_freq: Annotated[int | None, IdentityUnlessDefault] = Field(
        None, ge=1, description="every n-th layer has no RoPE (SmolLM3: 4); all layers have it if not set"
    )
    layernorm_epsilon: float = Field(1e-5, ge=0, description="RMSNorm epsilon")
    sliding_window: int | None = Field(
        None, ge=1, description="number of tokens that each token attends to, including itself; all if not set"
    )
    init_method_std: float = Field(0.02, ge=0, description="standard deviation of the initial weights")
    attention_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on attention probabilities")
    hidden_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the residual branches")

    @classmethod
    def implied(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the settings of the preset, if one is named."""
        return MODEL_PRESETS.get(str(given.get("preset")), {})

    @property
    def head_dim(self) -> int:
        """The width of one attention head."""
        return self.kv_channels or self.hidden_size // self.num_attention_heads
