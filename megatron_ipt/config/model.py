"""The shape of a model, in megatron-core's words, and the published shapes by name."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.config.setting import setting


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder-only transformer of the Mistral or Llama family: RMSNorm, SwiGLU, RoPE, grouped-query attention."""

    preset: str | None = setting(None, "start from a published shape; any field below overrides it")
    family: str = setting("mistral", "mistral or llama: the Hugging Face architecture it is exported to")
    num_layers: int = setting(2, "transformer layers")
    hidden_size: int = setting(128, "width of the residual stream")
    ffn_hidden_size: int = setting(352, "width of the SwiGLU feed-forward layer")
    num_attention_heads: int = setting(8, "query heads")
    num_query_groups: int = setting(8, "key-value heads (grouped-query attention)")
    kv_channels: int | None = setting(None, "width of one head; hidden_size / num_attention_heads when not set")
    vocab_size: int = setting(32000, "rows of the embedding; not padded")
    max_position_embeddings: int = setting(4096, "longest sequence the model is declared for")
    untie_embeddings_and_output_weights: bool = setting(True, "separate LM head")
    rotary_base: float = setting(10000.0, "RoPE theta")
    layernorm_epsilon: float = setting(1e-5, "RMSNorm epsilon")
    sliding_window: int | None = setting(None, "tokens each token sees, itself included (Mistral); none: all before it")
    init_method_std: float = setting(0.02, "standard deviation of the initial weights")
    attention_dropout: float = setting(0.0, "dropout on attention probabilities")
    hidden_dropout: float = setting(0.0, "dropout on the residual branches")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.kv_channels or self.hidden_size // self.num_attention_heads
