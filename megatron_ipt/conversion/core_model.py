"""A megatron-core model in one process, filled from Hugging Face tensors or read as such."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import ParallelConfig, PrecisionConfig
from megatron_ipt.conversion.hf_weights import HfWeights
from megatron_ipt.conversion.tensor_checks import ValueCheck, check_names, check_shapes
from megatron_ipt.errors import UserError
from megatron_ipt.models.gpt import build_gpt_chunks, unwrapped
from megatron_ipt.models.model_family import ModelFamily, load_family
from megatron_ipt.models.transformer_config import transformer_config
from megatron_ipt.observability.progress import ProgressDisplay
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
def fill_from_hf(core: CoreModel, weights: HfWeights, progress: ProgressDisplay | None = None) -> None:
    """Copy every tensor of a Hugging Face model to the parameter it belongs to.

    Args:
        progress: shows how many parameters are filled.

    Raises:
        UserError: tensors are missing or unknown, one does not fit config.json, or values are not finite in the model's
            number format.
    """
    names = _names_in_folder(core, weights.names)
    shapes = dict(_hf_shapes(core))
    optional = set[str]() if core.config.untie_embeddings_and_output_weights else set(core.family.head.hf)
    check_names(set(map(names, shapes)), optional, weights.names, core.family)
    check_shapes({names(name): shape for name, shape in shapes.items()}, weights)
    _check_tied_head(core, weights)
    parameters = core.parameters()
    check = ValueCheck(next(iter(parameters.values())).dtype)
    weight_maps = list(core.family.weight_maps(core.config))
    for weight_map in weight_maps if progress is None else progress.track(weight_maps):
        parts = {name: weights.tensor(names(name)) for name in weight_map.hf}
        for name, part in parts.items():
            check.add(names(name), part)
        parameters.pop(weight_map.core).copy_(weight_map.transform.to_core(list(parts.values()), core.config))
    assert not parameters, f"no map for {sorted(parameters)}"
    check.finish()


def hf_tensors(
    core: CoreModel, dtype: torch.dtype, progress: ProgressDisplay | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of the Hugging Face model by name, as `dtype` on the CPU."""
    for name, part in _hf_parts(core, progress):
        yield name, part.to("cpu", dtype).clone()


def check_export(core: CoreModel, dtype: torch.dtype) -> None:
    """Check that every value of the model is a number, and stays finite as `dtype`.

    Raises:
        UserError: some are not.
    """
    check = ValueCheck(dtype)
    for name, part in _hf_parts(core, None):
        check.add(name, part)
    check.finish()


@torch.no_grad()
def in_fp32(core: CoreModel, groups: Groups, *, rounded_to: torch.dtype, seq_length: int) -> CoreModel:
    """Copy the model to one that computes in fp32, with weights `rounded_to` the format of an export."""
    copy = build_core_model(core.config, groups, bf16=False, seq_length=seq_length)
    values = core.parameters()
    for name, parameter in copy.parameters().items():
        parameter.copy_(values[name].to(rounded_to))
    return copy


def _hf_parts(core: CoreModel, progress: ProgressDisplay | None) -> Iterator[tuple[str, torch.Tensor]]:
    parameters = core.parameters()
    weight_maps = list(core.family.weight_maps(core.config))
    for weight_map in weight_maps if progress is None else progress.track(weight_maps):
        parts = weight_map.transform.to_hf(parameters[weight_map.core].detach(), core.config)
        yield from zip(weight_map.hf, parts, strict=True)


def _hf_shapes(core: CoreModel) -> Iterator[tuple[str, torch.Size]]:
    parameters = core.parameters()
    for weight_map in core.family.weight_maps(core.config):
        parameter = torch.empty(parameters[weight_map.core].shape, device="meta")
        parts = weight_map.transform.to_hf(parameter, core.config)
        yield from ((name, part.shape) for name, part in zip(weight_map.hf, parts, strict=True))


def _names_in_folder(core: CoreModel, found: set[str]) -> Callable[[str], str]:
    """How the tensors are called in the folder: a tied embedding may stand there as the LM head alone."""
    [head], [embedding] = core.family.head.hf, core.family.embedding.hf
    if core.config.untie_embeddings_and_output_weights or embedding in found or head not in found:
        return str
    return lambda name: head if name == embedding else name


def _check_tied_head(core: CoreModel, weights: HfWeights) -> None:
    """Refuse a head that differs from the embedding: transformers 5 keeps it, whatever tie_word_embeddings says."""
    [head], [embedding] = core.family.head.hf, core.family.embedding.hf
    if core.config.untie_embeddings_and_output_weights or not {head, embedding} <= weights.names:
        return
    if not torch.equal(weights.tensor(head), weights.tensor(embedding)):
        raise UserError(
            "input",
            f"tie_word_embeddings = true, and {head} is not {embedding}",
            "config.json says that the two are one tensor",
            "set tie_word_embeddings to false in config.json if the model was trained with both",
        )
