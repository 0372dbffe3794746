"""Layers with post-norms: the outputs of attention and feed-forward network are normalized, instead of their inputs.

Queries and keys are normalized too, each over all heads together. A tensor rank holds some of the heads, so the mean
square is computed over all tensor ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from megatron.core.models.gpt.gpt_layer_specs import get_mlp_module_spec_for_backend
from megatron.core.tensor_parallel import copy_to_tensor_model_parallel_region, reduce_from_tensor_model_parallel_region
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.transformer import ModuleSpec, TransformerConfig, TransformerLayer
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import nn
from torch.distributed import ProcessGroup

from megatron_ipt.models.kernels import TRANSFORMER_ENGINE
from megatron_ipt.models.layer_specs import SequenceParallelRMSNorm, decoder_layer_spec


class ProjectionRMSNorm(nn.Module):
    """RMSNorm over all heads of a token together; each tensor rank holds an equal share of them."""

    def __init__(self, config: TransformerConfig, heads: int, tensor: ProcessGroup) -> None:
        """Create the weight of this rank's share of `heads`, the number of heads on all ranks of the group `tensor`."""
        super().__init__()
        self._width, self._eps, self._tensor = heads * config.kv_channels, config.layernorm_epsilon, tensor
        self.weight = nn.Parameter(torch.ones(self._width // tensor.size()))
        set_tensor_model_parallel_attributes(self.weight, is_parallel=True, dim=0, stride=1)

    def forward(self, heads: torch.Tensor) -> torch.Tensor:
        """Normalize [seq, batch, heads / tensor ranks, width]; computed in fp32."""
        values = heads.flatten(2).float()
        squares = reduce_from_tensor_model_parallel_region(values.square().sum(-1, keepdim=True), self._tensor)
        # the outputs of every rank depend on the sum, so its gradient is summed over the tensor ranks
        mean_square = copy_to_tensor_model_parallel_region(squares, self._tensor) / self._width
        normalized = self.weight * (values * torch.rsqrt(mean_square + self._eps))
        return normalized.to(heads.dtype).view_as(heads)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Describe the weight for megatron-core's checkpoints: split over the tensor ranks."""
        return make_sharded_tensors_for_checkpoint(
            self.state_dict(keep_vars=True), prefix, {"weight": 0}, sharded_offsets
        )


class ProjectionNormAttention(SelfAttention):
    """Self-attention with a `ProjectionRMSNorm` of queries and one of keys.

    They are not part of the layer specification, because megatron-core would build them without the tensor group, and
    treats norms in the specification as norms of single heads, whose weights are replicated on all tensor ranks.
    """

    def __init__(self, config: TransformerConfig, *arguments: Any, **settings: Any) -> None:
        super().__init__(config, *arguments, **settings)
        tensor = self.pg_collection.tp
        self.q_layernorm = ProjectionRMSNorm(config, config.num_attention_heads, tensor)
        self.k_layernorm = ProjectionRMSNorm(config, config.num_query_groups, tensor)


class PostNormLayer(TransformerLayer):
    """A TransformerLayer with a norm after attention and one after the feed-forward network."""

    def __init__(self, config: TransformerConfig, *arguments: Any, **settings: Any) -> None:
        super().__init__(config, *arguments, **settings)
        norms = [SequenceParallelRMSNorm(config, config.hidden_size, config.layernorm_epsilon) for _ in range(2)]
        self.post_self_attn_layernorm, self.post_mlp_layernorm = norms
        # hooks, because the layer's own hook for the residual addition runs under enable_grad, and would build an
        # autograd graph in evaluations
        for module, norm in zip((self.self_attention, self.mlp), norms, strict=True):
            module.register_forward_hook(_normalize_output(norm))


def post_norm_layer_spec(impl: str) -> ModuleSpec:
    """Return the specification of a layer with norms after attention and feed-forward network, and of queries and keys.

    Args:
        impl: `local` or `transformer_engine`.
    """
    layer = decoder_layer_spec(impl)
    layer.module = PostNormLayer
    parts = layer.submodules
    parts.self_attention.module = ProjectionNormAttention
    if impl == TRANSFORMER_ENGINE:  # its layers fuse the input norm into the matrix product
        backend = _backend_without_norms()
        parts.self_attention.submodules.linear_qkv = backend.column_parallel_linear()
        parts.mlp = get_mlp_module_spec_for_backend(backend)
    else:
        parts.input_layernorm = parts.pre_mlp_layernorm = IdentityOp
    return layer


def _normalize_output(norm: nn.Module) -> Callable[..., tuple[torch.Tensor, torch.Tensor | None]]:
    """Return a hook for modules that return a tensor and a bias (None here)."""

    def normalize(
        _: nn.Module, __: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor | None]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        value, bias = output
        return norm(value), bias

    return normalize


def _backend_without_norms() -> Any:
    from megatron.core.extensions.transformer_engine_spec_provider import TESpecProvider

    class WithoutNorms(TESpecProvider):
        def fuse_layernorm_and_linear(self) -> bool:
            return False

    return WithoutNorms()
