"""One rank with megatron-core's own layers or Transformer Engine's loads a checkpoint and saves another; prints JSON.

engine_job.py ORDER.json: `config`, `save` (a folder), and `payload`, a file that the extra state saved would touch if
it were unpickled. Without `checkpoint.pretrained_checkpoint` in `config`, the state is made up.

Transformer Engine's Python is real here, and its kernels are missing: nothing is computed, and weights are converted to
FP8 by torch. torch reports a GPU while it is imported and while layers are built.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch


def main() -> None:
    """Follow the order."""
    order = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with built(order["config"]) as (config, bundle, groups):
        if config.checkpoint.pretrained_checkpoint is None:
            make_up(bundle, groups)
        else:
            load(config, bundle, groups)
        print(json.dumps(exchange(order, bundle, groups)))


@contextmanager
def built(settings: dict[str, Any]) -> Iterator[tuple[Any, Any, Any]]:
    """The configuration, the model with its optimizer, and the process groups of one rank."""
    engine = settings["precision"]["transformer_impl"]
    modules: dict[str, Any] = sys.modules
    if engine == "local":
        modules["transformer_engine"] = None
    from megatron_ipt.parallel.cpu_backend import enable_cpu_backend

    enable_cpu_backend()
    with gpu_pretended():
        from megatron_ipt.training import model_bundle
    from megatron_ipt.config.loading import config_from
    from megatron_ipt.config.pretrain import PretrainConfig
    from megatron_ipt.parallel.groups import initialize, shutdown

    config = config_from(PretrainConfig, settings)
    groups = initialize(config.parallel, seed=1)
    try:
        with gpu_pretended():
            if engine != "local":
                convert_by_torch()
            bundle = model_bundle.build_model_bundle(config, groups, engine)
        yield config, bundle, groups
    finally:
        shutdown()


@contextmanager
def gpu_pretended() -> Iterator[None]:
    """As if there were an H100."""
    cuda: Any = torch.cuda
    original = cuda.is_available
    cuda.is_available = lambda: True
    cuda.get_device_capability = lambda *_: (9, 0)
    cuda.get_device_properties = lambda *_: SimpleNamespace(major=9, minor=0)
    try:
        yield
    finally:
        cuda.is_available = original


def convert_by_torch() -> None:
    """Replace the kernel that converts to FP8, with one scale for a tensor."""
    import transformer_engine_torch

    def quantize(source: torch.Tensor, quantizer: Any, target: Any = None, _skip: Any = None) -> Any:
        scale = torch.finfo(torch.float8_e4m3fn).max / source.abs().max().float()
        data = (source * scale).to(torch.float8_e4m3fn).view(torch.uint8)
        if target is None:
            target = quantizer.create_tensor_from_data(data, fake_dtype=source.dtype)
        target._data.copy_(data)
        target._scale_inv.copy_(1 / scale)
        return target

    kernels: Any = transformer_engine_torch
    kernels.quantize = quantize


def load(config: Any, bundle: Any, groups: Any) -> None:
    """Load `checkpoint.pretrained_checkpoint` as a run does at its start."""
    from megatron_ipt.checkpointing.store import CheckpointStore
    from megatron_ipt.corpus.manifest import Manifest
    from megatron_ipt.training.model_bundle import restore

    run = Path(config.run)
    run.mkdir()
    lineage = Manifest("pretrain", "running", {})
    store = CheckpointStore(run, groups, lineage, rule=config.checkpoint, log=lambda _: None)
    restore(config, groups, bundle, store)


def exchange(order: dict[str, Any], bundle: Any, groups: Any) -> dict[str, Any]:
    """Save, and describe what was saved."""
    from megatron.core import dist_checkpointing

    from megatron_ipt.checkpointing.contents import Contents, files_of, record_files, write_contents
    from megatron_ipt.checkpointing.training_state import prepare_training_state

    folder = Path(order["save"])
    folder.mkdir()
    with hostile_extra_state(order["payload"]):
        prepare_training_state(folder, bundle.chunks, bundle.optimizer, groups).execute_sync()
    write_contents(folder, Contents(7, 7, record_files(folder, files_of(folder))))
    tensors = dist_checkpointing.load_plain_tensors(str(folder))
    inner = bundle.optimizer.chained_optimizers[0].optimizer
    steps = [state["step"] for state in inner.state.values() if "step" in state]
    return {
        "tensors": {name: digest(tensor) for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)},
        "scales": {name: digest(tensor) for name, tensor in scales_of(bundle)},
        "adam": f"{type(inner).__module__}.{type(inner).__name__}",
        "step": sorted({float(step) for step in steps or [group.get("step", 0) for group in inner.param_groups]}),
        "settings": sorted({key for group in inner.param_groups for key in group} & {"bias_correction", "amsgrad"}),
    }


def make_up(bundle: Any, groups: Any) -> None:
    """Random moments and scales, after seven steps."""
    from megatron.core.fp8_utils import get_fp8_recipe

    from megatron_ipt.checkpointing import training_state

    training_state._sharded_state(bundle.chunks, bundle.optimizer, groups, set())  # makes the moments
    inner = bundle.optimizer.chained_optimizers[0].optimizer
    for state in inner.state.values():
        for name in ("exp_avg", "exp_avg_sq"):
            state[name].uniform_()
    training_state._set_step(inner, 7)
    for _, layer in fp8_layers(bundle):
        recipe = get_fp8_recipe(bundle.chunks[0].config)
        layer.fp8_meta.update(recipe=recipe, num_gemms=1)
        layer.init_fp8_meta_tensors(recipe)
    for _, tensor in scales_of(bundle):
        tensor.uniform_()


def fp8_layers(bundle: Any) -> list[tuple[str, Any]]:
    """The layers that multiply matrices, where the recipe gives them scales of their own."""
    model = bundle.chunks[0].module
    if not model.config.fp8 or model.config.fp8_recipe != "delayed":
        return []
    modules = dict(model.named_modules())
    return [(name, layer) for name, layer in modules.items() if hasattr(layer, "fp8_meta") and hasattr(layer, "weight")]


def scales_of(bundle: Any) -> list[tuple[str, torch.Tensor]]:
    """Scales and amax histories, by layer."""
    return [
        (f"{name}.{part}.{what}", getattr(layer.fp8_meta[part], what))
        for name, layer in fp8_layers(bundle)
        for part in ("scaling_fwd", "scaling_bwd")
        if part in layer.fp8_meta
        for what in ("scale", "amax_history")
    ]


@contextmanager
def hostile_extra_state(payload: str | None) -> Iterator[None]:
    """Save, as earlier versions did, what Transformer Engine hands out; with a pickle of a stranger in it."""
    from megatron_ipt.checkpointing import training_state

    ours = training_state.with_plain_scales
    if payload is not None:
        stored = torch.frombuffer(bytearray(pickle.dumps(Touch(payload))), dtype=torch.uint8)
        training_state.with_plain_scales = lambda _chunk, state, _stored: {
            key: replace(value, data=stored) if key.endswith("_extra_state") else value for key, value in state.items()
        }
    try:
        yield
    finally:
        training_state.with_plain_scales = ours


class Touch:
    """Unpickled, it touches a file."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.file),)


def digest(tensor: torch.Tensor) -> str:
    """Of its bytes."""
    return hashlib.sha256(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


if __name__ == "__main__":
    main()
