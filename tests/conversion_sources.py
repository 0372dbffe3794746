"""Inputs of conversions and averages in every format, made from one model with random weights, and their commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from megatron_lm_files import ARGUMENTS, VOCABULARY, write_legacy, write_torch_dist
from small_models import write_small_mistral

from megatron_ipt.checkpointing.contents import Contents
from megatron_ipt.checkpointing.layout import RUN_CONFIG_NAME
from megatron_ipt.checkpointing.store import CheckpointStore
from megatron_ipt.checkpointing.weights import save_weights
from megatron_ipt.config.loading import save_config
from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import CheckpointConfig, DataConfig, ParallelConfig, PrecisionConfig, PretrainConfig
from megatron_ipt.config.stages import AverageConfig, ConvertConfig
from megatron_ipt.conversion.averaging import average
from megatron_ipt.conversion.convert import convert
from megatron_ipt.conversion.core_model import build_core_model
from megatron_ipt.corpus.manifest import Manifest
from megatron_ipt.parallel.groups import initialize, shutdown

Run = Callable[["Sources", Path], None]


@dataclass(frozen=True)
class Sources:
    """A small Hugging Face folder; a run with two checkpoints, and Megatron-LM's formats, of the model."""

    hf: Path
    run: Path
    torch_dist: Path
    legacy: Path


def write_sources(folder: Path, shape: dict[str, Any]) -> Sources:
    """Write them in fp32. The process groups are gone afterwards, so that a forked process can make its own."""
    found = Sources(*(folder / name for name in ("hf", "run", "torch_dist", "legacy")))
    write_small_mistral(found.hf)
    groups = initialize(ParallelConfig(), seed=1)
    model = ModelConfig(family="llama", vocab_size=VOCABULARY, **shape)
    core = build_core_model(model, groups, bf16=False, seq_length=1)
    config = PretrainConfig(
        run=str(found.run), model=model, data=DataConfig(tokenizer=str(found.hf)), precision=PrecisionConfig(bf16=False)
    )
    found.run.mkdir()
    run_config = found.run / RUN_CONFIG_NAME
    save_config(config, run_config)
    rule, lineage = CheckpointConfig(keep_last=0), Manifest("pretrain", "running", {})
    store = CheckpointStore(found.run, groups, lineage, rule=rule, log=print)
    for iteration in (1, 2):
        with torch.no_grad():
            for parameter in core.parameters().values():
                parameter.normal_()
        store.save(Contents(iteration, 8, []), run_config, lambda folder: save_weights([core.chunk], folder))
    arguments = {**ARGUMENTS, **shape, "vocab_size": VOCABULARY}
    write_torch_dist(found.torch_dist, core, arguments)
    write_legacy(found.legacy, core, arguments, tensor=1)
    shutdown()
    return found


def conversion(direction: str, source: str) -> Run:
    """A conversion of one of the sources, without the parity check."""

    def run(sources: Sources, output: Path) -> None:
        tokenizer = str(sources.hf) if direction == "mlm-to-mcore" else None
        given = {"input": str(getattr(sources, source)), "output": str(output), "tokenizer": tokenizer}
        convert(ConvertConfig(direction=direction, **given, parity_check=False), print)

    return run


def mean(sources: Sources, output: Path) -> None:
    """The mean of both checkpoints."""
    average(AverageConfig(input=str(sources.run), output=str(output), last=2), print)


RUNS: dict[str, Run] = {
    "hf-to-mcore": conversion("hf-to-mcore", "hf"),
    "mcore-to-hf": conversion("mcore-to-hf", "run"),
    "mlm-to-mcore": conversion("mlm-to-mcore", "torch_dist"),
    "mlm-to-mcore-legacy": conversion("mlm-to-mcore", "legacy"),
    "mcore-to-mlm": conversion("mcore-to-mlm", "run"),
    "average": mean,
}
