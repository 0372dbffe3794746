"""Checkpoints as Megatron-LM writes them, made of a model of ours, and the arguments in them."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.mapping import ShardedObject

from megatron_ipt.checkpointing.weights import ASYNC_STRATEGY
from megatron_ipt.conversion.core_model import CoreModel
from megatron_ipt.conversion.megatron_lm.sharded import megatron_lm_state

VOCABULARY, PADDED = 259, 288
SHAPE: dict[str, Any] = {
    "num_layers": 4,
    "hidden_size": 48,
    "ffn_hidden_size": 64,
    "num_attention_heads": 6,
    "num_query_groups": 2,
    "max_position_embeddings": 64,
}
ARGUMENTS: dict[str, Any] = {
    **SHAPE,
    "group_query_attention": True,
    "position_embedding_type": "rope",
    "normalization": "RMSNorm",
    "swiglu": True,
    "add_bias_linear": False,
    "untie_embeddings_and_output_weights": True,
    "norm_epsilon": 1e-6,
    "padded_vocab_size": PADDED,
    "params_dtype": torch.bfloat16,
    "rank": 0,
}


def write_torch_dist(folder: Path, core: CoreModel, arguments: dict[str, Any]) -> None:
    """What Megatron-LM writes up to 0.18: common.pt beside the tensors, and the states of optimizer and generators."""
    (folder / "iter_0000003").mkdir(parents=True)
    state = {
        "model": megatron_lm_state(core),
        "args": Namespace(**arguments),
        "checkpoint_version": 3.0,
        "rng_state": ShardedObject("rng_state", [Namespace(a=1)], (1, 1), (0, 0)),
    }
    dist_checkpointing.save(state, str(folder / "iter_0000003"), **ASYNC_STRATEGY)
    (folder / "latest_checkpointed_iteration.txt").write_text("3")


def write_legacy(
    folder: Path, core: CoreModel, arguments: dict[str, Any], tensor: int = 2, pipeline: int = 2, chunks: int = 1
) -> None:
    """What Megatron-LM writes with --ckpt-format torch, by layers of Transformer Engine, whose norms are fused."""
    layers = core.config.num_layers // (pipeline * chunks)
    for rank in range(tensor):
        for stage in range(pipeline):
            state: dict[str, Any] = {"args": Namespace(**arguments), "checkpoint_version": 3.0, "iteration": 3}
            for chunk in range(chunks):
                first = (chunk * pipeline + stage) * layers
                place = (chunk * pipeline + stage, chunks * pipeline - 1)
                state[f"model{chunk}" if chunks > 1 else "model"] = {
                    new: split(name, parameter.detach(), tensor)[rank].clone()
                    for name, parameter in core.parameters().items()
                    if (new := local_name(name, first, layers, *place)) is not None
                } | {"decoder.layers.0.self_attention.linear_qkv._extra_state": None}
            file = folder / "release" / (f"mp_rank_{rank:02d}" + (f"_{stage:03d}" if pipeline > 1 else ""))
            file.mkdir(parents=True)
            torch.save(state, file / "model_optim_rng.pt")
    (folder / "latest_checkpointed_iteration.txt").write_text("release")


def local_name(name: str, first: int, layers: int, place: int, last: int) -> str | None:
    """What a parameter is called in the chunk that has `layers` layers from `first` on; None if it has it not."""
    if not name.startswith("decoder.layers."):
        return name if place == (0 if name.startswith("embedding") else last) else None
    _, _, number, rest = name.split(".", 3)
    rest = {
        "input_layernorm.weight": "self_attention.linear_qkv.layer_norm_weight",
        "pre_mlp_layernorm.weight": "mlp.linear_fc1.layer_norm_weight",
    }.get(rest, rest)
    return f"decoder.layers.{int(number) - first}.{rest}" if first <= int(number) < first + layers else None


def split(name: str, value: torch.Tensor, ranks: int) -> list[torch.Tensor]:
    """As megatron-core's layers split a parameter over tensor ranks."""
    if value.dim() == 1:
        return [value] * ranks
    if name.endswith(("linear_proj.weight", "linear_fc2.weight")):
        return list(value.chunk(ranks, dim=1))
    if name.endswith("linear_fc1.weight"):
        gate, up = value.chunk(2)
        return [torch.cat(pair) for pair in zip(gate.chunk(ranks), up.chunk(ranks), strict=True)]
    return list(value.chunk(ranks))
