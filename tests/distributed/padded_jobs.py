"""Jobs of the worker pool on a vocabulary that is padded."""

from __future__ import annotations

from typing import Any

from conversion_jobs import loaded


def logits_of(run: str, layout: dict[str, Any], tokens: list[list[int]]) -> Any:
    """What the newest checkpoint of `run` answers to `tokens` at `layout`, over all tensor ranks [batch, seq, rows]."""
    import torch
    import torch.distributed as dist

    with loaded(run, layout, seq_length=len(tokens[0])) as (_, [chunk], groups), torch.no_grad():
        ids = torch.tensor(tokens)
        mine = chunk(ids, torch.arange(ids.shape[1]).expand_as(ids), None).contiguous()
        by_rank = [torch.empty_like(mine) for _ in range(groups.world_size)]
        dist.all_gather(by_rank, mine)
        return torch.cat(by_rank, dim=-1).numpy()


def shapes_of(checkpoint: str) -> dict[str, tuple[int, ...]]:
    """The shape of every whole tensor in a checkpoint, optimizer state included."""
    from jobs import read_tensors

    return {name: tuple(tensor.shape) for name, tensor in read_tensors(checkpoint).items()}
