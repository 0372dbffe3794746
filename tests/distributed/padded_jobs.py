"""Jobs of the worker pool on a vocabulary that is padded."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def logits_of(run: str, layout: dict[str, Any], tokens: list[list[int]]) -> Any:
    """What the newest checkpoint of `run` answers to `tokens` at `layout`, over all tensor ranks [batch, seq, rows]."""
    import torch
    import torch.distributed as dist

    from megatron_ipt.checkpointing.layout import RUN_CONFIG_NAME, resolve_checkpoint
    from megatron_ipt.checkpointing.weights import load_weights
    from megatron_ipt.config.loading import load_config
    from megatron_ipt.config.pretrain import ParallelConfig, PretrainConfig
    from megatron_ipt.models.gpt import build_gpt_chunks
    from megatron_ipt.models.transformer_config import transformer_config
    from megatron_ipt.parallel.groups import initialize, shutdown

    checkpoint = resolve_checkpoint(Path(run))
    assert checkpoint is not None
    config = load_config(PretrainConfig, checkpoint / RUN_CONFIG_NAME)
    parallel = ParallelConfig(**layout)
    groups = initialize(parallel, seed=7)
    try:
        ids = torch.tensor(tokens)
        core = transformer_config(config.model, parallel, config.precision, calculate_per_token_loss=False)
        [chunk] = build_gpt_chunks(config.model, parallel, config.precision, core, groups, seq_length=ids.shape[1])
        load_weights([chunk], checkpoint)
        with torch.no_grad():
            mine = chunk(ids, torch.arange(ids.shape[1]).expand_as(ids), None).contiguous()
        by_rank = [torch.empty_like(mine) for _ in range(groups.world_size)]
        dist.all_gather(by_rank, mine)
        return torch.cat(by_rank, dim=-1).numpy()
    finally:
        shutdown()


def shapes_of(checkpoint: str) -> dict[str, tuple[int, ...]]:
    """The shape of every whole tensor in a checkpoint, optimizer state included."""
    from jobs import _tensors

    return {name: tuple(tensor.shape) for name, tensor in _tensors(checkpoint).items()}
