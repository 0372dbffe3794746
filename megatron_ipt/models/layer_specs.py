"""Layer specifications for megatron-core: its own layers with torch's attention and norms, or Transformer Engine's."""

from __future__ import annotations

from typing import Any

from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer import ModuleSpec, TransformerConfig
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from torch import nn

from megatron_ipt.models.attention import LocalAttention
from megatron_ipt.models.kernels import TRANSFORMER_ENGINE


class SequenceParallelRMSNorm(nn.RMSNorm):
    """RMSNorm that supports sequence parallelism.

    Each tensor rank sees part of the sequence, so the gradient of the weight must be summed over the tensor ranks;
    megatron-core does this for parameters marked `sequence_parallel`. Its own wrapper of torch's norm rejects sequence
    parallelism (0.16 to 0.19).
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: object) -> None:
        super().__init__(hidden_size, eps=eps)
        weight: Any = self.weight
        weight.sequence_parallel = config.sequence_parallel


def decoder_layer_spec(impl: str, *, qk_norms: bool = False) -> ModuleSpec:
    """Return the specification of a layer with RMSNorm, self-attention and a feed-forward network.

    Args:
        impl: `local` or `transformer_engine`.
        qk_norms: normalize each query head and each key head.
    """
    if impl == TRANSFORMER_ENGINE:
        return get_gpt_layer_with_transformer_engine_spec(qk_layernorm=qk_norms)
    layer = get_gpt_layer_local_spec(normalization="RMSNorm")
    if qk_norms:
        attention = layer.submodules.self_attention.submodules
        attention.q_layernorm = attention.k_layernorm = SequenceParallelRMSNorm
    layer.submodules.self_attention.submodules.core_attention = LocalAttention
    layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = SequenceParallelRMSNorm
    return layer


def block_spec(
    layer: ModuleSpec, impl: str, config: TransformerConfig, vp_stage: int | None
) -> ModuleSpec | TransformerBlockSubmodules:
    """Return the specification of this rank's layers and of the final norm, for GPTModel.

    Args:
        layer: the specification of each layer.
        impl: `local` or `transformer_engine`.
        config: megatron-core's configuration.
        vp_stage: the model chunk of this rank in the interleaved schedule; None without it.
    """
    if impl == TRANSFORMER_ENGINE:
        return layer
    return TransformerBlockSubmodules(
        layer_specs=[layer] * get_num_layers_to_build(config, vp_stage), layer_norm=SequenceParallelRMSNorm
    )
