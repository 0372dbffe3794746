"""Attention within documents, whose beginnings are where positions restart."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.packed_seq_params import PackedSeqParams


class DocumentGPTModel(GPTModel):
    """A GPTModel in which no token attends to another document; a document begins where `position_ids` are 0.

    megatron-core's own layers get a mask. Transformer Engine's fused attention ignores one silently: it gets the
    samples of the micro-batch concatenated into one sequence, with the offsets of the documents.
    """

    def __init__(self, *arguments: Any, packs: bool, **settings: Any) -> None:
        """Build a GPTModel of `arguments` and `settings`; `packs` concatenates, as Transformer Engine requires."""
        super().__init__(*arguments, **settings)
        self._packs = packs

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: None,
        labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute what GPTModel.forward does; all arguments are [batch, seq], and `attention_mask` is made here."""
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
    """True where a token must not attend, [batch, 1, seq, seq]."""
    documents = (position_ids == 0).cumsum(dim=1)
    other = documents[:, :, None] != documents[:, None, :]
    return (other | torch.ones_like(other[0]).triu(diagonal=1))[:, None]


def document_starts(position_ids: torch.Tensor) -> torch.Tensor:
    """Offsets of the documents in the concatenated samples, and their total length; int32, [documents + 1]."""
    flat = position_ids.flatten()
    end = torch.tensor([flat.numel()], device=flat.device)
    return torch.cat([(flat == 0).nonzero().flatten(), end]).int()
