"""Attention for megatron-core's own layers, with torch's fused kernels.

megatron-core's own implementation (0.16 to 0.19) materializes all attention scores and does not support context
parallelism. This one computes the same result without materializing the scores where torch has a fused kernel. With
context parallelism, each rank gathers the keys and values of the whole sequence and attends from its own queries; this
does not need Transformer Engine.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region, get_cuda_rng_tracker
from megatron.core.transformer import MegatronModule, TransformerConfig
from torch.distributed import ProcessGroup
from torch.nn.functional import scaled_dot_product_attention

from megatron_ipt.parallel.context import positions_by_rank


class LocalAttention(MegatronModule):
    """Causal attention, with a sliding window if the configuration has one."""

    def __init__(
        self, config: TransformerConfig, *_: object, pg_collection: ProcessGroupCollection, **__: object
    ) -> None:
        """Accept the arguments that megatron-core passes to a core attention; most are not needed here."""
        super().__init__(config)
        self._context = pg_collection.cp

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **_: object,
    ) -> torch.Tensor:
        """Attend from this rank's tokens; seq is the length of its part of the sequence.

        Args:
            query: [seq, batch, heads, width].
            key: [seq, batch, groups, width].
            value: [seq, batch, groups, width].
            attention_mask: [batch, 1, seq, seq of all ranks], True where a token must not attend, causality and window
                included; its keys are in the order of `token_positions`. None for causal attention with the window of
                the configuration.

        Returns:
            [seq, batch, heads x width].
        """
        if self._context.size() > 1:
            key, value = (gather_from_sequence_parallel_region(part, group=self._context) for part in (key, value))
        if (heads_per_group := query.shape[2] // key.shape[2]) > 1:
            key, value = (part.repeat_interleave(heads_per_group, dim=2) for part in (key, value))
        visible = self._visible_tokens(key.shape[0], query.device) if attention_mask is None else ~attention_mask
        dropout = self.config.attention_dropout if self.training else 0.0
        query, key, value = (part.permute(1, 2, 0, 3) for part in (query, key, value))
        # dropout must differ between tensor ranks, which hold different heads; with sequence parallelism the whole
        # layer already runs under this rank's own generator
        with get_cuda_rng_tracker().fork() if dropout and not self.config.sequence_parallel else nullcontext():
            context = scaled_dot_product_attention(
                query, key, value, attn_mask=visible, is_causal=visible is None, dropout_p=dropout
            )
        return context.permute(2, 0, 1, 3).flatten(2)

    def _visible_tokens(self, length: int, device: torch.device) -> torch.Tensor | None:
        """Return the attention mask of this rank's tokens, [seq / ranks, seq]; None for plain causal attention."""
        window = self.config.window_size
        if self._context.size() == 1 and window is None:
            return None
        return visible_tokens(*token_positions(length, self._context, device), window)


def token_positions(length: int, context: ProcessGroup, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the positions of this rank's tokens in a sequence of `length`, and of the tokens of all ranks, in order.

    Returns:
        [length / ranks], and [length] in the order in which the keys are gathered from the ranks of `context`.
    """
    if context.size() == 1:
        positions = torch.arange(length, device=device)
        return positions, positions
    by_rank = positions_by_rank(length, context.size(), device)
    return by_rank[context.rank()], by_rank.flatten()


def visible_tokens(queries: torch.Tensor, keys: torch.Tensor, window: tuple[int, int] | None) -> torch.Tensor:
    """Return which keys each query attends to, [queries, keys]: up to its own position, from `window[0]` before it."""
    positions = queries[:, None]
    visible = keys <= positions
    return visible if window is None else visible & (keys >= positions - window[0])
