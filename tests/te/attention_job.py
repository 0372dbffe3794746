"""One micro-batch of packed documents reaches Transformer Engine's attention; prints what arrives there as JSON.

attention_job.py ORDER.json: `config`, and `documents`, the lengths of the documents in each sample.

The layers before the attention need a GPU. Random queries, keys and values take the place of theirs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from engine_job import built
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = ("_local_scalar_dense", "nonzero")


def main() -> None:
    """Follow the order."""
    order = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with built(order["config"]) as (config, bundle, groups):
        from megatron_ipt.data.micro_batches import MicroBatches
        from megatron_ipt.training.step import ForwardBackward

        size = len(order["documents"])
        samples: Any = [sample(lengths) for lengths in order["documents"]]
        rank = {"dp_rank": 0, "dp_size": 1, "device": groups.device, "packs": bundle.packs}
        batches = MicroBatches(samples, 0, batch_size=lambda _: size, micro_batch_size=size, **rank)
        on_device = iter([next(batches)])
        seq_length = config.data.seq_length
        meter: Any = None
        forward = ForwardBackward(
            bundle, meter, data_parallel_size=1, micro_batch_size=size, seq_length=seq_length, per_token=True
        )
        waits = Waits()
        arrived = record_attention(bundle)
        try:
            with waits:
                forward([on_device], size, forward_only=True)
        except Arrived:
            print(json.dumps({**arrived, "waits": waits.operations}))


def sample(lengths: list[int]) -> dict[str, torch.Tensor]:
    """Documents of these lengths."""
    tokens = torch.zeros(sum(lengths), dtype=torch.int64)
    positions = torch.cat([torch.arange(length) for length in lengths])
    return {"tokens": tokens, "labels": tokens, "position_ids": positions, "loss_mask": torch.ones(len(tokens))}


def record_attention(bundle: Any) -> dict[str, Any]:
    """Record the arguments of Transformer Engine's attention, which then raises Arrived."""
    from transformer_engine.pytorch import DotProductAttention

    arrived: dict[str, Any] = {}
    decoder = bundle.chunks[0].module.module.decoder
    attention: Any = DotProductAttention

    def attend(hidden_states: torch.Tensor, **settings: Any) -> None:
        config, layer = decoder.config, decoder.layers[0].self_attention
        query, key, value = (
            torch.rand(len(hidden_states), heads, config.kv_channels, dtype=torch.bfloat16)
            for heads in (config.num_attention_heads, config.num_query_groups, config.num_query_groups)
        )
        packed = settings["packed_seq_params"]
        layer.core_attention(query, key, value, None, layer.attn_mask_type, packed_seq_params=packed)

    def record(_: Any, query: torch.Tensor, *_tensors: Any, **settings: Any) -> None:
        arrived.update(
            tokens=len(query),
            offsets=settings["cu_seqlens_q"].tolist(),
            longest=[settings["max_seqlen_q"], settings["max_seqlen_kv"]],
            format=settings["qkv_format"],
            mask=settings["attn_mask_type"],
        )
        raise Arrived

    decoder.forward, attention.forward = attend, record
    return arrived


class Arrived(Exception):
    """The attention was called."""


class Waits(TorchDispatchMode):
    """Operations for which the host waits for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, function: Any, _: Any, arguments: Any = (), settings: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name in WAITING:
            self.operations.append(name)
        return function(*arguments, **(settings or {}))


if __name__ == "__main__":
    main()
