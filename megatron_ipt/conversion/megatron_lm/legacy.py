"""Weights of Megatron-LM's legacy checkpoints, a file for each tensor and pipeline rank, into one model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.conversion.core_model import CoreModel
from megatron_ipt.conversion.megatron_lm.inert import read_inert
from megatron_ipt.conversion.megatron_lm.locate import MegatronLmCheckpoint, shards
from megatron_ipt.conversion.megatron_lm.names import check_names, misfit
from megatron_ipt.errors import UserError
from megatron_ipt.models.weight_maps import EMBEDDING, HEAD

_LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")
_FUSED_NORMS = {
    "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
    "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight",
}
"""Names in Transformer Engine's layers of what megatron-core's own layers call differently."""
_ALONG_INPUTS = (".linear_proj.weight", ".linear_fc2.weight")
_GATE_AND_UP = ".linear_fc1.weight"
_WHOLE = "layernorm.weight"
_OLDEST_VERSION = 3.0  # before, queries, keys and values were interleaved otherwise

Parts = dict[str, list[torch.Tensor]]
"""By name in the whole model: what each tensor rank has of a parameter."""


@torch.no_grad()
def fill_from_shards(core: CoreModel, checkpoint: MegatronLmCheckpoint) -> None:
    """Copy the weights in `checkpoint` to the parameters of `core`; rows of padding stay behind.

    Raises:
        UserError: files of ranks are missing, or tensors are missing, unknown, or of other shapes than the model's.
    """
    tensor, pipeline = _layout(core.config, checkpoint)
    parts = _collect(checkpoint, tensor, pipeline)
    if not core.config.untie_embeddings_and_output_weights:
        parts.pop(HEAD.core, None)  # the last stage's copy of the embedding
    parameters = core.parameters()
    check_names(set(parameters), set(parts), checkpoint.folder)
    for name, parameter in parameters.items():
        whole = join_ranks(name, parts.pop(name))
        if name in (EMBEDDING.core, HEAD.core):
            whole = whole[: core.config.vocab_size]
        if whole.shape != parameter.shape:
            raise misfit(checkpoint.folder, f"{name} {list(whole.shape)}, not {list(parameter.shape)}")
        parameter.copy_(whole)


def join_ranks(name: str, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Make one parameter of what the tensor ranks have of it."""
    if name.endswith(_WHOLE):
        return parts[0]
    if name.endswith(_GATE_AND_UP):
        halves = [part.chunk(2) for part in parts]
        return torch.cat([*(gate for gate, _ in halves), *(up for _, up in halves)])
    return torch.cat(list(parts), dim=1 if name.endswith(_ALONG_INPUTS) else 0)


def _layout(model: ModelConfig, checkpoint: MegatronLmCheckpoint) -> tuple[int, int]:
    """Tensor and pipeline size of `checkpoint`.

    Raises:
        UserError: files of ranks are missing, or there are experts, or tensor ranks share key-value heads.
    """
    try:
        ranks = set(shards(checkpoint))
    except ValueError as error:
        raise UserError("input", checkpoint.folder, str(error), "convert a model without experts") from error
    tensor, pipeline = (1 + max(rank[axis] for rank in ranks) for axis in (0, 1))
    missing = sorted({(t, p) for t in range(tensor) for p in range(pipeline)} - ranks)
    if missing:
        reason = f"no file of tensor rank {missing[0][0]}, pipeline rank {missing[0][1]}"
        raise UserError("input", checkpoint.folder, reason, "copy the folders of all ranks")
    if model.num_query_groups % tensor:
        reason = f"{tensor} tensor ranks share {model.num_query_groups} key-value heads"
        raise UserError("input", checkpoint.folder, reason, "save it in the torch_dist format")
    return tensor, pipeline


def _collect(checkpoint: MegatronLmCheckpoint, tensor: int, pipeline: int) -> Parts:
    """Read all ranks, and number the layers of the whole model: chunk by chunk, and in each chunk stage by stage."""
    files = shards(checkpoint)
    states = {rank: _read(file, checkpoint) for rank, file in files.items()}
    parts: Parts = {}
    first_layer = 0
    for key in _chunk_names(states[0, 0]):
        for stage in range(pipeline):
            chunks = [_tensors(states[rank, stage].get(key)) for rank in range(tensor)]
            if any(chunk.keys() != chunks[0].keys() for chunk in chunks):
                raise misfit(checkpoint.folder, f"tensor ranks of stage {stage} have other parameters")
            for name in chunks[0]:
                parts[_whole_name(name, first_layer)] = [chunk[name] for chunk in chunks]
            first_layer += len({match[1] for name in chunks[0] if (match := _LAYER.match(name))})
    return parts


def _read(file: Any, checkpoint: MegatronLmCheckpoint) -> dict[str, Any]:
    state: dict[str, Any] = read_inert(file, file)
    version = state.get("checkpoint_version", 0)
    if version < _OLDEST_VERSION:
        reason = f"it is of checkpoint version {version}; {_OLDEST_VERSION} and later are supported"
        raise UserError("input", checkpoint.folder, reason, "load it with a newer Megatron-LM, and save it")
    return state


def _chunk_names(state: dict[str, Any]) -> list[str]:
    """The keys of a rank's chunks in order: `model`, or `model0` and so on in the interleaved schedule."""
    return sorted((key for key in state if re.fullmatch(r"model\d*", key)), key=lambda key: int(key[5:] or 0))


def _tensors(chunk: Any) -> dict[str, torch.Tensor]:
    """Parameters by name; a model of former classes has dictionaries instead, whose names lead to its refusal."""
    return dict(_named(chunk)) if isinstance(chunk, dict) else {}


def _named(chunk: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in chunk.items():
        if isinstance(value, dict):
            yield name, torch.empty(0)
        elif isinstance(value, torch.Tensor) and not name.endswith("_extra_state"):
            yield name, value


def _whole_name(name: str, first_layer: int) -> str:
    match = _LAYER.fullmatch(name)
    if match is None:
        return name
    return f"decoder.layers.{first_layer + int(match[1])}.{_FUSED_NORMS.get(match[2], match[2])}"
