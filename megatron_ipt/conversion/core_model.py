"""A whole megatron-core model in one process, filled from Hugging Face tensors or read as such."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import ParallelConfig, PrecisionConfig
from megatron_ipt.conversion.hf_weights import HfWeights
from megatron_ipt.conversion.weight_maps import weight_maps
from megatron_ipt.errors import UserError
from megatron_ipt.models.gpt import build_gpt_chunks, unwrapped
from megatron_ipt.models.transformer_config import transformer_config
from megatron_ipt.parallel.groups import Groups

_EMBEDDING_NAME, _HEAD_NAME = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class CoreModel:
    """A model and its one chunk."""

    config: ModelConfig
    chunk: torch.nn.Module

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Parameters by megatron-core's names."""
        return dict(unwrapped(self.chunk).named_parameters())


def build_core_model(model: ModelConfig, groups: Groups, *, bf16: bool, seq_length: int) -> CoreModel:
    """The model without values; megatron-core's own layers, whose names the weight maps use."""
    parallel, precision = ParallelConfig(), PrecisionConfig(bf16=bf16, transformer_impl="local")
    config = transformer_config(model, parallel, precision, calculate_per_token_loss=False, seq_length=seq_length)
    config.perform_initialization = False
    [chunk] = build_gpt_chunks(model, parallel, precision, config, groups, seq_length)
    return CoreModel(model, chunk.eval())


@torch.no_grad()
def fill_from_hf(core: CoreModel, weights: HfWeights) -> None:
    """Copy every tensor of a Hugging Face model to its place.

    Raises:
        UserError: tensors are missing or left over, or one is not what config.json says.
    """
    _check_names(core.config, weights)
    _check_tied_head(core.config, weights)
    parameters = core.parameters()
    for weight_map in weight_maps(core.config):
        parameter = parameters.pop(weight_map.core)
        parts = [weights.tensor(name) for name in weight_map.hf]
        if sum(part.numel() for part in parts) != parameter.numel():
            shapes = ", ".join(f"{name} {list(part.shape)}" for name, part in zip(weight_map.hf, parts, strict=True))
            raise UserError("input", shapes, "the shape does not fit config.json", "fetch the folder again")
        parameter.copy_(weight_map.transform.to_core(parts, core.config))
    assert not parameters, f"no map for {sorted(parameters)}"


@torch.no_grad()
def hf_tensors(core: CoreModel, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of the Hugging Face model, one after another, as `dtype`."""
    parameters = core.parameters()
    for weight_map in weight_maps(core.config):
        parts = weight_map.transform.to_hf(parameters[weight_map.core].detach(), core.config)
        for name, part in zip(weight_map.hf, parts, strict=True):
            yield name, part.to("cpu", dtype).clone()


@torch.no_grad()
def in_fp32(core: CoreModel, groups: Groups, *, rounded_to: torch.dtype, seq_length: int) -> CoreModel:
    """The same model computing in fp32, its weights rounded as an export rounds them."""
    copy = build_core_model(core.config, groups, bf16=False, seq_length=seq_length)
    values = core.parameters()
    for name, parameter in copy.parameters().items():
        parameter.copy_(values[name].to(rounded_to))
    return copy


def _check_names(model: ModelConfig, weights: HfWeights) -> None:
    expected = {name for weight_map in weight_maps(model) for name in weight_map.hf}
    ignored = {name for name in weights.names if name.endswith("rotary_emb.inv_freq")}
    if not model.untie_embeddings_and_output_weights:
        ignored.add(_HEAD_NAME)
    missing, unknown = sorted(expected - weights.names), sorted(weights.names - expected - ignored)
    if missing or unknown:
        different = [f"no {name}" for name in missing] + [f"unknown {name}" for name in unknown]
        shown = "; ".join(different[:5]) + (f"; and {len(different) - 5} more" if len(different) > 5 else "")
        raise UserError("input", shown, "the tensors are not those of the model in config.json", "fetch it again")


def _check_tied_head(model: ModelConfig, weights: HfWeights) -> None:
    """transformers keeps a head that is not equal to the embedding, whatever tie_word_embeddings says."""
    if model.untie_embeddings_and_output_weights or _HEAD_NAME not in weights.names:
        return
    if not torch.equal(weights.tensor(_HEAD_NAME), weights.tensor(_EMBEDDING_NAME)):
        raise UserError(
            "input",
            f"tie_word_embeddings = true, and {_HEAD_NAME} is not {_EMBEDDING_NAME}",
            "config.json says that the two are one tensor",
            "set tie_word_embeddings to false in config.json if the model was trained with both",
        )
