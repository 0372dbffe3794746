"""Attention that ends where a document ends, read off positions that restart there."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.packed_seq_params import PackedSeqParams


class DocumentGPTModel(GPTModel):
    """A GPTModel in which no token sees another document; `position_ids` tell them apart.

    megatron-core's own layers get a mask. Transformer Engine's fused attention takes none, and would attend across
    documents without a word: it gets the samples of the micro-batch end to end, with the places where documents begin.
    """

    def __init__(self, *arguments: Any, packs: bool, **settings: Any) -> None:
        """`packs`: for Transformer Engine's attention."""
        super().__init__(*arguments, **settings)
        self._packs = packs

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: None,
        labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As GPTModel's; all are [batch, seq]."""
        if not self._packs:
            return super().forward(input_ids, position_ids, document_mask(position_ids), labels=labels)
        starts = document_starts(position_ids)
        length = position_ids.shape[1]
        packed = PackedSeqParams(
            qkv_format="thd", cu_seqlens_q=starts, cu_seqlens_kv=starts, max_seqlen_q=length, max_seqlen_kv=length
        )
        row, rows = (1, -1), position_ids.shape
        output = super().forward(
            input_ids.reshape(row),
            position_ids.reshape(row),
            None,
            labels=None if labels is None else labels.reshape(row),
            packed_seq_params=packed,
        )
        if not self.post_process:
            return output
        return output.reshape(rows if labels is not None else (*rows, -1))


def document_mask(position_ids: torch.Tensor) -> torch.Tensor:
    """True where a token must not look, (batch, 1, seq, seq)."""
    documents = (position_ids == 0).cumsum(dim=1)
    other = documents[:, :, None] != documents[:, None, :]
    return (other | torch.ones_like(other[0]).triu(diagonal=1))[:, None]


def document_starts(position_ids: torch.Tensor) -> torch.Tensor:
    """Where documents begin in the samples laid end to end, and the end of it all; int32."""
    flat = position_ids.flatten()
    end = torch.tensor([flat.numel()], device=flat.device)
    return torch.cat([(flat == 0).nonzero().flatten(), end]).int()
