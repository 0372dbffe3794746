"""Attention of megatron-core's own layers where several ranks share a sequence.

megatron-core leaves this to Transformer Engine. Here each rank gathers the keys and values of all and attends from its
own queries, so that the layout runs, exactly, without Transformer Engine and on a CPU too.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.transformer import MegatronModule, TransformerConfig
from torch.nn.functional import scaled_dot_product_attention

from megatron_ipt.parallel.context import positions_by_rank


class ContextParallelAttention(MegatronModule):
    """Causal attention, with a window where the configuration has one; no other mask."""

    def __init__(self, config: TransformerConfig, *_: Any, pg_collection: Any, **__: Any) -> None:
        super().__init__(config)
        self._group = pg_collection.cp

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: None, **_: Any
    ) -> torch.Tensor:
        """`query` [slices, batch, heads, width], `key` and `value` [slices, batch, groups, width].

        Returns [slices, batch, heads x width].
        """
        key, value = (gather_from_sequence_parallel_region(part, group=self._group) for part in (key, value))
        positions = positions_by_rank(key.shape[0], self._group.size(), query.device)
        distance = positions[self._group.rank()][:, None] - positions.flatten()
        visible = distance >= 0
        if self.config.window_size is not None:
            visible &= distance <= self.config.window_size[0]
        query, key, value = (part.permute(1, 2, 0, 3) for part in (query, key, value))
        context = scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=visible,
            dropout_p=self.config.attention_dropout if self.training else 0.0,
            enable_gqa=True,
        )
        return context.permute(2, 0, 1, 3).flatten(2)
