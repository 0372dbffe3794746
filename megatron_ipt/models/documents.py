"""Attention within documents; a document begins where positions restart."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams

from megatron_ipt.models.attention import token_positions, visible_tokens
from megatron_ipt.models.padded_vocabulary import PaddedGPTModel


class DocumentGPTModel(PaddedGPTModel):
    """A GPTModel in which no token attends to another document; a document begins where `position_ids` are 0.

    megatron-core's own layers get a mask, which includes the window of the configuration. Transformer Engine's fused
    attention silently ignores masks, so it gets the samples of the micro-batch packed into one sequence, with the
    offsets of the documents.
    """

    def __init__(self, *arguments: Any, packs: bool, **settings: Any) -> None:
        """Build a GPTModel; with `packs`, samples are packed into one sequence, as Transformer Engine requires."""
        super().__init__(*arguments, **settings)
        self._packs, self._context = packs, settings["pg_collection"].cp

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: None,
        labels: torch.Tensor | None = None,
        packed: PackedSeqParams | None = None,
    ) -> torch.Tensor:
        """Compute the same as GPTModel.forward; tensors are [batch, seq], and the attention mask is built here.

        With context parallelism, `position_ids` are those of the whole sequence: documents may begin in the slices of
        other ranks. With packing, `packed` describes the documents; it is computed on the host, without a
        synchronization with the device.
        """
        if not self._packs:
            queries, keys = token_positions(position_ids.shape[1], self._context, position_ids.device)
            mask = document_mask(position_ids, queries, keys, self.config.window_size)
            return super().forward(input_ids, position_ids, mask, labels=labels)
        assert packed is not None, "micro-batches for a model with packing include PackedSeqParams"
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


def document_mask(
    position_ids: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor, window: tuple[int, int] | None
) -> torch.Tensor:
    """Return the mask of documents, [batch, 1, queries, keys], True where a token must not attend.

    Args:
        position_ids: [batch, seq], which restart at each document.
        queries: the positions in the sequence, from 0 to seq, of the tokens that attend.
        keys: those of the tokens that they attend to.
        window: see `visible_tokens`.
    """
    documents = (position_ids == 0).cumsum(dim=1)
    same = documents[:, queries, None] == documents[:, None, keys]
    return ~(same & visible_tokens(queries, keys, window))[:, None]
