"""Weights of Megatron-LM's legacy checkpoints, a file for each tensor and pipeline rank, read as those of one model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from megatron_ipt.checkpointing.weights import ReadPart
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


@dataclass(frozen=True)
class _Place:
    """Where the parts of a parameter are.

    Attributes:
        files: by tensor rank.
        chunk, name: the keys under which each file holds its part.
        shapes: of the parts.
    """

    files: tuple[Path, ...]
    chunk: str
    name: str
    shapes: tuple[torch.Size, ...]

    def read(self, checkpoint: MegatronLmCheckpoint) -> list[torch.Tensor]:
        """Read the parts. Files are opened for them alone: one that stays open keeps in memory all that was read."""
        return [_read(file, checkpoint)[self.chunk][self.name] for file in self.files]


def stored_in_shards(core: CoreModel, checkpoint: MegatronLmCheckpoint) -> ReadPart:
    """Return a function that reads parts of the parameters of `core` from `checkpoint`, without rows of padding.

    Raises:
        UserError: files of ranks are missing, or tensors are missing, unknown, or of other shapes than the model's.
    """
    tensor, pipeline = _layout(core.config, checkpoint)
    places = _find(checkpoint, tensor, pipeline)
    if not core.config.untie_embeddings_and_output_weights:
        places.pop(HEAD.core, None)  # the last stage's copy of the embedding
    parameters = core.parameters()
    check_names(set(parameters), set(places), checkpoint.folder)
    for name, parameter in parameters.items():
        parts = [torch.empty(shape, device="meta") for shape in places[name].shapes]
        whole = join_ranks(name, _unpadded(name, parts, core.config))
        if whole.shape != parameter.shape:
            raise misfit(checkpoint.folder, f"{name} {list(whole.shape)}, not {list(parameter.shape)}")
    dtype = core.dtype

    def read(name: str, first: int, count: int) -> torch.Tensor:
        whole = join_ranks(name, _unpadded(name, places[name].read(checkpoint), core.config))
        return whole.to(dtype).view(-1)[first : first + count]

    return read


def _unpadded(name: str, parts: Sequence[torch.Tensor], model: ModelConfig) -> list[torch.Tensor]:
    """Drop rows of padding, which the last ranks have, from an embedding or LM head."""
    if name not in (EMBEDDING.core, HEAD.core):
        return list(parts)
    starts = [0, *accumulate(len(part) for part in parts)]
    return [part[: max(0, model.vocab_size - start)] for start, part in zip(starts, parts, strict=False)]


def join_ranks(name: str, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Make one parameter of what the tensor ranks have of it."""
    if name.endswith(_WHOLE) or len(parts) == 1:
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


def _find(checkpoint: MegatronLmCheckpoint, tensor: int, pipeline: int) -> dict[str, _Place]:
    """Find all parameters, and number the layers of the whole model: chunk by chunk, and in each stage by stage."""
    files = shards(checkpoint)
    shapes = {rank: _shapes(_read(file, checkpoint)) for rank, file in files.items()}
    places: dict[str, _Place] = {}
    first_layer = 0
    for key in shapes[0, 0]:
        for stage in range(pipeline):
            chunks = [shapes[rank, stage].get(key, {}) for rank in range(tensor)]
            if any(chunk.keys() != chunks[0].keys() for chunk in chunks):
                raise misfit(checkpoint.folder, f"tensor ranks of stage {stage} have other parameters")
            of_stage = tuple(files[rank, stage] for rank in range(tensor))
            for name in chunks[0]:
                of_ranks = tuple(chunk[name] for chunk in chunks)
                places[_whole_name(name, first_layer)] = _Place(of_stage, key, name, of_ranks)
            first_layer += len({match[1] for name in chunks[0] if (match := _LAYER.match(name))})
    return places


def _read(file: Path, checkpoint: MegatronLmCheckpoint) -> dict[str, Any]:
    state: dict[str, Any] = read_inert(file, file)
    version = state.get("checkpoint_version", 0)
    if version < _OLDEST_VERSION:
        reason = f"it is of checkpoint version {version}; {_OLDEST_VERSION} and later are supported"
        raise UserError("input", checkpoint.folder, reason, "load it with a newer Megatron-LM, and save it")
    return state


def _shapes(state: dict[str, Any]) -> dict[str, dict[str, torch.Size]]:
    """Shapes of the parameters of a rank's chunks in order: `model`, or `model0` and so on if interleaved."""
    keys = sorted((key for key in state if re.fullmatch(r"model\d*", key)), key=lambda key: int(key[5:] or 0))
    chunks = {key: state[key] if isinstance(state[key], dict) else {} for key in keys}
    return {key: {name: value.shape for name, value in _named(chunk)} for key, chunk in chunks.items()}


def _named(chunk: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters by name; a model of former classes has dictionaries instead, whose names lead to its refusal."""
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
