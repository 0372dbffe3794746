"""A megatron-core model in one process, filled from Hugging Face tensors or read as such."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import ParallelConfig, PrecisionConfig
from megatron_ipt.conversion.hf_weights import HfWeights
from megatron_ipt.errors import UserError
from megatron_ipt.models.gpt import build_gpt_chunks, unwrapped
from megatron_ipt.models.model_family import ModelFamily, load_family
from megatron_ipt.models.transformer_config import transformer_config
from megatron_ipt.parallel.groups import Groups


@dataclass(frozen=True)
class CoreModel:
    """A model that is not split over ranks: its shape, and the one chunk that holds its layers."""

    config: ModelConfig
    chunk: torch.nn.Module

    @property
    def family(self) -> ModelFamily:
        """The family of the model."""
        return load_family(self.config.family)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Parameters by megatron-core's names."""
        return dict(unwrapped(self.chunk).named_parameters())


def build_core_model(model: ModelConfig, groups: Groups, *, bf16: bool, seq_length: int) -> CoreModel:
    """Build the model with uninitialized weights, of megatron-core's own layers, whose names the weight maps use."""
    parallel, precision = ParallelConfig(), PrecisionConfig(bf16=bf16, transformer_impl="local")
    config = transformer_config(model, parallel, precision, calculate_per_token_loss=False, seq_length=seq_length)
    config.perform_initialization = False
    [chunk] = build_gpt_chunks(model, parallel, precision, config, groups, seq_length)
    return CoreModel(model, chunk.eval())


@torch.no_grad()
def fill_from_hf(core: CoreModel, weights: HfWeights) -> None:
    """Copy every tensor of a Hugging Face model to the parameter it belongs to.

    Raises:
        UserError: tensors are missing or unknown, or one does not fit config.json.
    """
    _check_names(core, weights)
    _check_tied_head(core, weights)
    parameters = core.parameters()
    for weight_map in core.family.weight_maps(core.config):
        parameter = parameters.pop(weight_map.core)
        parts = [weights.tensor(name) for name in weight_map.hf]
        if sum(part.numel() for part in parts) != parameter.numel():
            shapes = ", ".join(f"{name} {list(part.shape)}" for name, part in zip(weight_map.hf, parts, strict=True))
            raise UserError("input", shapes, "the shape does not fit config.json", "fetch the folder again")
        parameter.copy_(weight_map.transform.to_core(parts, core.config))
    assert not parameters, f"no map for {sorted(parameters)}"


@torch.no_grad()
def hf_tensors(core: CoreModel, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of the Hugging Face model by name, as `dtype` on the CPU."""
    parameters = core.parameters()
    for weight_map in core.family.weight_maps(core.config):
        parts = weight_map.transform.to_hf(parameters[weight_map.core].detach(), core.config)
        for name, part in zip(weight_map.hf, parts, strict=True):
            yield name, part.to("cpu", dtype).clone()


@torch.no_grad()
def in_fp32(core: CoreModel, groups: Groups, *, rounded_to: torch.dtype, seq_length: int) -> CoreModel:
    """Copy the model to one that computes in fp32, with weights `rounded_to` the format of an export."""
    copy = build_core_model(core.config, groups, bf16=False, seq_length=seq_length)
    values = core.parameters()
    for name, parameter in copy.parameters().items():
        parameter.copy_(values[name].to(rounded_to))
    return copy


def _check_names(core: CoreModel, weights: HfWeights) -> None:
    expected = {name for weight_map in core.family.weight_maps(core.config) for name in weight_map.hf}
    ignored = {name for name in weights.names if name.endswith("rotary_emb.inv_freq")}
    if not core.config.untie_embeddings_and_output_weights:
        ignored.update(core.family.head.hf)
    missing, unknown = sorted(expected - weights.names), sorted(weights.names - expected - ignored)
    if missing or unknown:
        different = [f"no {name}" for name in missing] + [f"unknown {name}" for name in unknown]
        shown = "; ".join(different[:5]) + (f"; and {len(different) - 5} more" if len(different) > 5 else "")
        raise UserError("input", shown, "the tensors are not those of the model in config.json", "fetch it again")


def _check_tied_head(core: CoreModel, weights: HfWeights) -> None:
    """Refuse a head that differs from the embedding: transformers 5 keeps it, whatever tie_word_embeddings says."""
    [head], [embedding] = core.family.head.hf, core.family.embedding.hf
    if core.config.untie_embeddings_and_output_weights or head not in weights.names:
        return
    if not torch.equal(weights.tensor(head), weights.tensor(embedding)):
        raise UserError(
            "input",
            f"tie_word_embeddings = true, and {head} is not {embedding}",
            "config.json says that the two are one tensor",
            "set tie_word_embeddings to false in config.json if the model was trained with both",
        )
