"""Models on the meta device that compute nevertheless: the weights of a layer are in memory while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import transformers

from megatron_ipt.checkpointing.weights import ReadParameters
from megatron_ipt.conversion.core_model import CoreModel, names_in_folder
from megatron_ipt.conversion.hf_weights import HfWeights
from megatron_ipt.models.gpt import unwrapped


def stream_core(core: CoreModel) -> torch.nn.Module:
    """A function of tokens, as the chunk of `core` is one, for a model whose parameters are stored elsewhere."""
    if core.stored is None:
        return core.chunk
    model = unwrapped(core.chunk)
    # the LM head of a tied model is handed the embedding's weight
    kept = () if core.config.untie_embeddings_and_output_weights else ("embedding.word_embeddings",)
    _stream(model, core.read, core.device, kept)
    return core.chunk


def stream_hf(core: CoreModel, folder: Path, attention: str) -> torch.nn.Module:
    """The model in `folder` as its transformers class, in fp32 on the CPU.

    Args:
        core: a model of the same shape.
        folder: of the Hugging Face model.
        attention: implementation that transformers uses.
    """
    config = transformers.AutoConfig.from_pretrained(str(folder))
    with torch.device("meta"):
        hf = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
    for name, module in list(hf.named_modules()):
        if hasattr(module, "inv_freq"):  # computed, not stored
            hf.set_submodule(name, type(module)(config))
    weights = HfWeights(folder)
    names = names_in_folder(core, weights.names)

    def read(wanted: Sequence[str]) -> dict[str, torch.Tensor]:
        return {name: weights.tensor(names(name)).float() for name in wanted}

    _stream(hf, read, torch.device("cpu"))
    return hf.eval()


def _stream(model: torch.nn.Module, read: ReadParameters, device: torch.device, kept: Sequence[str] = ()) -> None:
    """Have each part of `model` take its parameters before it runs, and drop them after, except those `kept`."""
    for name, part in _parts(model):

        def load(part: torch.nn.Module, _: object, name: str = name) -> None:
            names = {key: f"{name}.{key}" for key, _ in part.named_parameters()}
            values = read(list(names.values()))
            state = {key: values.pop(full).to(device) for key, full in names.items()}
            part.load_state_dict(state, strict=False, assign=True)

        def drop(part: torch.nn.Module, *_: object) -> None:
            part.to_empty(device="meta")

        part.register_forward_pre_hook(load)
        if name not in kept:
            part.register_forward_hook(drop)


def _parts(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Return the layers of `model`, and the modules with parameters outside of them."""
    layers = next(name for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList))
    depth = layers.count(".") + 1
    for name, module in model.named_modules():
        if name.startswith(f"{layers}."):
            if name.count(".") == depth:
                yield name, module
        elif any(True for _ in module.parameters(recurse=False)):
            yield name, module
