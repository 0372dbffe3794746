"""A megatron-core model in one process, filled from Hugging Face tensors or read as such."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch

from megatron_ipt.checkpointing.weights import ReadParameters, ReadPart
from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import ParallelConfig, PrecisionConfig
from megatron_ipt.conversion.hf_shards import HfTensors
from megatron_ipt.conversion.hf_weights import HfWeights
from megatron_ipt.conversion.tensor_checks import ValueCheck, check_names, check_shapes
from megatron_ipt.errors import UserError
from megatron_ipt.models.gpt import build_gpt_chunks, unwrapped
from megatron_ipt.models.model_family import ModelFamily, load_family
from megatron_ipt.models.transformer_config import transformer_config
from megatron_ipt.models.weight_maps import WeightMap
from megatron_ipt.parallel.groups import Groups

_META = torch.device("meta")
_LAYER = re.compile(r".*?\.\d+\.")


@dataclass(frozen=True)
class CoreModel:
    """A model that is not split over ranks: its shape, and the one chunk that holds its layers.

    Attributes:
        device: where it computes.
        stored: gives the parameters of a model on the meta device, from where they are stored; None if the model
            itself has them.
    """

    config: ModelConfig
    chunk: torch.nn.Module
    device: torch.device
    stored: ReadParameters | None = None

    @property
    def family(self) -> ModelFamily:
        """The family of the model."""
        return load_family(self.config.family)

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the parameters."""
        return next(self.chunk.parameters()).dtype

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Parameters by megatron-core's names."""
        return dict(unwrapped(self.chunk).named_parameters())

    def read(self, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """The values of some parameters."""
        if self.stored is not None:
            return self.stored(names)
        parameters = self.parameters()
        return {name: parameters[name].detach() for name in names}

    def weight_maps(self) -> list[WeightMap]:
        """How each parameter is made of Hugging Face tensors."""
        return list(self.family.weight_maps(self.config))


def build_core_model(
    model: ModelConfig, groups: Groups, *, bf16: bool, seq_length: int, on_meta: bool = False
) -> CoreModel:
    """Build the model with uninitialized weights, of megatron-core's own layers, whose names the weight maps use.

    Args:
        on_meta: give the weights shapes alone, and no memory.
    """
    parallel, precision = ParallelConfig(), PrecisionConfig(bf16=bf16, transformer_impl="local")
    config = transformer_config(model, parallel, precision, calculate_per_token_loss=False, seq_length=seq_length)
    config.perform_initialization = False
    if not on_meta:
        [chunk] = build_gpt_chunks(model, parallel, precision, config, groups, seq_length)
        return CoreModel(model, chunk.eval(), groups.device)
    config.use_cpu_initialization = True  # otherwise megatron-core names the GPU as the place of each weight
    with _META:
        [chunk] = build_gpt_chunks(model, parallel, precision, config, replace(groups, device=_META), seq_length)
    return CoreModel(model, chunk.eval(), groups.device)


def stored_in_hf(core: CoreModel, weights: HfWeights) -> CoreModel:
    """The model with the parameters that a Hugging Face model has, each made when it is read.

    Raises:
        UserError: tensors are missing or unknown, or one does not fit config.json.
    """
    names = names_in_folder(core, weights.names)
    shapes = dict(_hf_shapes(core))
    optional = set[str]() if core.config.untie_embeddings_and_output_weights else set(core.family.head.hf)
    check_names(set(map(names, shapes)), optional, weights.names, core.family)
    check_shapes({names(name): shape for name, shape in shapes.items()}, weights)
    _check_tied_head(core, weights)
    weight_maps = {weight_map.core: weight_map for weight_map in core.weight_maps()}
    dtype = core.dtype

    def read(wanted: Sequence[str]) -> dict[str, torch.Tensor]:
        return {name: _to_core(weight_maps[name], weights, names, core.config).to(dtype) for name in wanted}

    return replace(core, stored=read)


def parts_in_hf(core: CoreModel, weights: HfWeights, check: ValueCheck) -> ReadPart:
    """Give parts of parameters of `core`, a result of `stored_in_hf`; for a part that is one tensor, read no other.

    `check` looks at the values of each tensor that is read.
    """
    names = names_in_folder(core, weights.names)
    weight_maps = {weight_map.core: weight_map for weight_map in core.weight_maps()}
    dtype = core.dtype

    def tensor(name: str) -> torch.Tensor:
        value = weights.tensor(name)
        check.add(name, value)
        return value

    def read(name: str, first: int, count: int) -> torch.Tensor:
        weight_map, start = weight_maps[name], 0
        parts = list(map(names, weight_map.hf))
        for part in parts if weight_map.transform.stacks else ():
            size = weights.shape(part).numel()
            if (start, size) == (first, count):
                return tensor(part).to(dtype).view(-1)
            start += size
        whole = weight_map.transform.to_core(list(map(tensor, parts)), core.config)
        return whole.to(dtype).view(-1)[first : first + count]

    return read


def check_values(core: CoreModel, weights: HfWeights) -> None:
    """Check that every value of a Hugging Face model is a number, and stays finite in the number format of `core`.

    Raises:
        UserError: some are not.
    """
    names, check = names_in_folder(core, weights.names), ValueCheck(core.dtype)
    for weight_map in core.weight_maps():
        for name in map(names, weight_map.hf):
            check.add(name, weights.tensor(name))
    check.finish()


@torch.no_grad()
def fill_from_hf(core: CoreModel, weights: HfWeights) -> None:
    """Copy every tensor of a Hugging Face model to the parameter it belongs to.

    Raises:
        UserError: tensors are missing or unknown, one does not fit config.json, or values are not finite in the model's
            number format.
    """
    stored = stored_in_hf(core, weights)
    check_values(core, weights)
    parameters = core.parameters()
    for name, parameter in parameters.items():
        parameter.copy_(stored.read([name])[name])


def hf_tensors(core: CoreModel, dtype: torch.dtype) -> HfTensors:
    """The tensors of the Hugging Face model as `dtype`; a layer of them is in memory at a time."""
    weight_maps = {name: weight_map for weight_map in core.weight_maps() for name in weight_map.hf}
    check = ValueCheck(dtype)

    def read(names: Sequence[str]) -> Iterator[torch.Tensor]:
        for _, of_layer in groupby(names, lambda name: _layer(weight_maps[name].core)):
            wanted = list(of_layer)
            parts = _to_hf(core, dict.fromkeys(weight_maps[name] for name in wanted))
            for name in wanted:
                check.add(name, parts[name])
                yield parts.pop(name).to("cpu", dtype).contiguous()

    return HfTensors(dict(_hf_shapes(core)), dtype, read, check)


def in_fp32(core: CoreModel, groups: Groups, *, rounded_to: torch.dtype, seq_length: int) -> CoreModel:
    """The model as one that computes in fp32, with weights `rounded_to` the format of an export, or of a checkpoint."""
    exact = build_core_model(core.config, groups, bf16=False, seq_length=seq_length, on_meta=True)

    def read(names: Sequence[str]) -> dict[str, torch.Tensor]:
        return {name: value.to(rounded_to).float() for name, value in core.read(names).items()}

    return replace(exact, stored=read)


def names_in_folder(core: CoreModel, found: set[str]) -> Callable[[str], str]:
    """Names of the tensors in a folder; of a tied embedding and LM head, it may contain only one."""
    [head], [embedding] = core.family.head.hf, core.family.embedding.hf
    if core.config.untie_embeddings_and_output_weights or {head, embedding} <= found:
        return str
    alone = embedding if embedding in found else head
    return lambda name: alone if name in (head, embedding) else name


def _to_core(
    weight_map: WeightMap, weights: HfWeights, names: Callable[[str], str], model: ModelConfig
) -> torch.Tensor:
    return weight_map.transform.to_core([weights.tensor(names(name)) for name in weight_map.hf], model)


def _to_hf(core: CoreModel, weight_maps: Sequence[WeightMap] | dict[WeightMap, None]) -> dict[str, torch.Tensor]:
    values = core.read([weight_map.core for weight_map in weight_maps])
    return {
        name: part
        for weight_map in weight_maps
        for name, part in zip(
            weight_map.hf, weight_map.transform.to_hf(values.pop(weight_map.core), core.config), strict=True
        )
    }


def _layer(name: str) -> str:
    """The layer that a parameter belongs to, or its own name."""
    found = _LAYER.match(name)
    return found[0] if found else name


def _hf_shapes(core: CoreModel) -> Iterator[tuple[str, torch.Size]]:
    parameters = core.parameters()
    for weight_map in core.weight_maps():
        parameter = torch.empty(parameters.pop(weight_map.core).shape, device=_META)
        parts = weight_map.transform.to_hf(parameter, core.config)
        yield from ((name, part.shape) for name, part in zip(weight_map.hf, parts, strict=True))
    assert not parameters, f"no map for {sorted(parameters)}"


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
