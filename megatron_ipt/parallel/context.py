"""Which part of a sequence a rank holds where several share it."""

from __future__ import annotations

from typing import Any

import torch

from megatron_ipt.parallel.groups import Groups

_ALONG_THE_SEQUENCE = ("tokens", "labels", "loss_mask", "position_ids")


def positions_by_rank(length: int, ranks: int, device: torch.device) -> torch.Tensor:
    """Where the tokens of each rank stand in a sequence of `length`, (ranks, length / ranks).

    Of twice as many slices as there are ranks, rank r holds slice r and slice r from the end, so that all have as much
    to attend to: as megatron-core deals out RoPE's angles (get_pos_emb_on_this_cp_rank) and Transformer Engine expects.
    """
    slices = torch.arange(length, device=device).view(2 * ranks, -1)
    # not by a list of both numbers, which would be copied to the device
    return torch.stack([torch.cat([slices[rank], slices[-1 - rank]]) for rank in range(ranks)])


def slice_sequences(batch: dict[str, Any], groups: Groups) -> dict[str, Any]:
    """`batch` with this rank's two slices of each sequence, (micro_batch_size, seq_length / ranks).

    `loss_tokens` (micro_batch_size,) counts the tokens of the whole sequences that bear loss.
    """
    mask: torch.Tensor = batch["loss_mask"]
    mine = positions_by_rank(mask.shape[1], groups.cp_size, mask.device)[groups.cp_rank]
    slices = {name: batch[name][:, mine] for name in _ALONG_THE_SEQUENCE}
    return {**batch, **slices, "loss_tokens": mask.sum(dim=-1)}
