"""Distribution of sequences over context-parallel ranks."""

from __future__ import annotations

from typing import Any

import torch

from megatron_ipt.parallel.groups import Groups

_SEQUENCE_FIELDS = ("tokens", "labels", "loss_mask")


def positions_by_rank(length: int, ranks: int, device: torch.device) -> torch.Tensor:
    """Return the positions of each rank's tokens in a sequence of `length`, (ranks, length / ranks).

    The sequence is cut into 2 x ranks slices, and rank r holds slice r and the r-th slice from the end: this balances
    causal attention over the ranks. megatron-core slices RoPE's angles in the same way (get_pos_emb_on_this_cp_rank),
    and Transformer Engine requires it.
    """
    slices = torch.arange(length, device=device).view(2 * ranks, -1)
    # indexing with a list of both numbers would copy it to the device
    return torch.stack([torch.cat([slices[rank], slices[-1 - rank]]) for rank in range(ranks)])


def slice_sequences(batch: dict[str, Any], groups: Groups) -> dict[str, Any]:
    """Return `batch` with this rank's two slices of each sequence, (micro_batch_size, seq_length / ranks).

    `position_ids` remain whole: they are needed only for finding documents, which begin in the slices of any rank.
    `loss_tokens` (micro_batch_size,) counts the unmasked tokens of the whole sequences.
    """
    mask: torch.Tensor = batch["loss_mask"]
    mine = positions_by_rank(mask.shape[1], groups.cp_size, mask.device)[groups.cp_rank]
    slices = {name: batch[name][:, mine] for name in _SEQUENCE_FIELDS}
    return {**batch, **slices, "loss_tokens": mask.sum(dim=-1)}
