"""Collect the content of an export's model card from the manifests of the stages behind the checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.repocard import metadata_load

from megatron_ipt.checkpointing.contents import Contents, read_contents
from megatron_ipt.config.pretrain import BlendEntry, PretrainConfig
from megatron_ipt.conversion.carried import Carried
from megatron_ipt.conversion.hf_files import CONFIG_NAME, README_NAME
from megatron_ipt.conversion.sources import ExportSource
from megatron_ipt.corpus.lineage import trace_lineage
from megatron_ipt.corpus.manifest import find_producer, read_manifest, write_atomically
from megatron_ipt.models.accounting import parameter_count
from megatron_ipt.models.model_family import load_family
from megatron_ipt.reporting.model_card import BaseModel, DatasetRow, ModelCard, render_model_card
from megatron_ipt.reporting.rows import lineage_rows

_TAKEN_OVER = ("license", "license_name", "license_link", "language")
"""Keys of a base model's card that hold for models made of it."""
_HUB_CACHE = "models--"


def is_trained(source: ExportSource) -> bool:
    """Return whether the model was trained here; a converted Hugging Face model keeps its own card."""
    return read_contents(source.checkpoint).iteration > 0


def write_model_card(folder: Path, source: ExportSource, carried: Carried | None) -> Path:
    """Write README.md into the export `folder`."""
    card = describe_model(source, carried)
    write_atomically(folder / README_NAME, render_model_card(card, card.architecture))
    return folder / README_NAME


def describe_model(source: ExportSource, carried: Carried | None) -> ModelCard:
    """Collect what is known of the model of `source`."""
    manifest = read_manifest(source.checkpoint)
    return ModelCard(
        architecture=load_family(source.run.model.family).architecture,
        parameters=parameter_count(source.run.model),
        base=_base(carried) if carried is not None else None,
        training=dict(_training(source.run, read_contents(source.checkpoint))),
        datasets=_datasets(source.run.data.blend),
        lineage=lineage_rows(trace_lineage(source.checkpoint, manifest)) if manifest is not None else [],
    )


def _base(carried: Carried) -> BaseModel:
    """The model that was imported: its name is that of the folder, or of the repository in the hub's cache."""
    run = carried.config.parent.parent
    manifest = read_manifest(run)
    assert manifest is not None, "an import has finished"
    [file] = [record.path for record in manifest.inputs if Path(record.path).name == CONFIG_NAME]
    folder = Path(os.path.normpath(run.absolute() / file)).parent
    cached = [part.removeprefix(_HUB_CACHE) for part in folder.parts if part.startswith(_HUB_CACHE)]
    files = [file.name for file in carried.files if file.suffix != ".json"]
    metadata = _metadata(carried.config.with_name(README_NAME))
    return BaseModel(cached[-1].replace("--", "/") if cached else folder.name, bool(cached), metadata, files)


def _metadata(readme: Path) -> Mapping[str, Any]:
    """Licence and languages in the front matter of a model card; empty where that is none, or broken."""
    try:
        values = (metadata_load(readme) or {}) if readme.is_file() else {}
    except (ValueError, yaml.YAMLError):
        return {}
    return {name: values[name] for name in _TAKEN_OVER if name in values}


def _training(run: PretrainConfig, contents: Contents) -> Iterator[tuple[str, str]]:
    optimizer, schedule = run.optimizer, run.schedule
    yield "iterations", f"{contents.iteration:,}"
    yield "tokens", f"{contents.consumed_train_samples * run.data.seq_length:,}"
    yield "batch", f"{run.training.global_batch_size:,} samples of {run.data.seq_length:,} tokens"
    yield "optimizer", f"{optimizer.optimizer}, weight decay {optimizer.weight_decay:g}"
    yield "learning rate", f"{optimizer.lr:g} to {optimizer.min_lr:g}, {schedule.lr_decay_style}"
    yield "precision", run.precision.fp8 or ("bf16" if run.precision.bf16 else "fp32")
    if contents.validation_loss is not None:
        yield "validation loss", f"{contents.validation_loss:.4f}"


def _datasets(blend: list[BlendEntry]) -> list[DatasetRow]:
    weights = sum(entry.share or 0.0 for entry in blend)
    rows = []
    for entry in blend:
        share = f"{entry.epochs:g} epochs" if entry.share is None else f"{entry.share / weights:.1%}"
        made = find_producer(Path(f"{entry.prefix}.bin"))
        counts = made[1].counts if made is not None else {}
        rows.append(DatasetRow(Path(entry.prefix).name, share, counts.get("documents"), counts.get("tokens")))
    return rows
