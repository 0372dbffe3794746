"""The stage of mixtures: a blend of indexed datasets for each variant, as YAML that the trainer takes as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_ipt.config.checks import is_split
from megatron_ipt.config.mixture import MixtureConfig
from megatron_ipt.config.settings import identity_of
from megatron_ipt.corpus.manifest import Stage, write_atomically
from megatron_ipt.data.document_split import count_tokens
from megatron_ipt.data.indexed_writer import LOSS_MASK_SUFFIX
from megatron_ipt.data.mixtures import Draw, plan_mixtures
from megatron_ipt.data.shares import find_repeated_datasets
from megatron_ipt.errors import Problem, UserError

MOST_EPOCHS = 4
"""Readings after which repeated data teaches less than new data would (arXiv 2305.16264)."""


def build_mixtures(config: MixtureConfig) -> dict[str, Any]:
    """Write blend.VARIANT.yaml for each variant into `config.output`; returns what was counted.

    Raises:
        UserError: a setting or a dataset is unfit, or the output folder holds something else.
    """
    if not is_split(config.split) or not float(config.split.partition(",")[0]):
        raise UserError("split", config.split, "no shares, or none for train", "write TRAIN,VALIDATION,TEST as 99,1,0")
    used = [name for name in config.datasets if any(name in variant for variant in config.variants.values())]
    indices = [Path(f"{config.datasets[name]}.idx") for name in used]
    identity = identity_of(config)
    stage = Stage("mix", Path(config.output), identity, indices, trusts_manifests=True)
    if stage.is_complete:
        return stage.counts
    if repeated := [problem for name in config.variants for problem in _find_repeated(config, name)]:
        raise UserError.of(repeated)
    tokens = {name: count_tokens(Path(config.datasets[name]), config.split)["train"] for name in used}
    plans = plan_mixtures(config, tokens)
    stage.start()
    files = [stage.folder / f"blend.{name}.yaml" for name in plans]
    for file, (name, draws) in zip(files, plans.items(), strict=True):
        write_atomically(file, render_blend(config, name, draws))
    counts = {
        "train_iters": _samples(next(iter(plans.values()))) // config.global_batch_size,
        "tokens": config.seq_length * _samples(next(iter(plans.values()))),
        "variants": {
            name: {dataset: {**asdict(draw), "epochs": round(draw.epochs, 4)} for dataset, draw in draws.items()}
            for name, draws in plans.items()
        },
    }
    stage.finish(files, counts)
    return counts


def _find_repeated(config: MixtureConfig, name: str) -> Iterator[Problem]:
    known = [dataset for dataset in config.variants[name] if dataset in config.datasets]
    return find_repeated_datasets((f"variants.{name}.{dataset}", config.datasets[dataset]) for dataset in known)


def render_blend(config: MixtureConfig, name: str, draws: Mapping[str, Draw]) -> str:
    """Settings of a training run: the blend, and all on which its numbers depend."""
    samples = _samples(draws)
    lines = [
        f"# Mixture {name}: {samples * config.seq_length:,} tokens. Weights are samples of {config.seq_length} tokens.",
        "data:",
        "  blend:",
    ]
    for dataset, draw in draws.items():
        lines += [
            f"    - prefix: {json.dumps(config.datasets[dataset], ensure_ascii=False)}",
            f"      weight: {draw.samples} # {dataset}: {draw.tokens:,} tokens, {draw.samples / samples:.2%},"
            f" {draw.epochs:.3f} epochs",
        ]
    lines += [
        f"  seq_length: {config.seq_length}",
        f'  split: "{config.split}"',
        "training:",
        f"  train_iters: {samples // config.global_batch_size}",
        f"  global_batch_size: {config.global_batch_size}",
    ]
    return "\n".join(lines) + "\n"


def find_warnings(config: MixtureConfig, counts: Mapping[str, Any]) -> list[str]:
    """What a user should know about the mixtures before training on them."""
    warnings = [
        f"{name}: {dataset} is read {draw['epochs']:.1f} times; more than {MOST_EPOCHS} teaches little that is new"
        for name, draws in counts["variants"].items()
        for dataset, draw in draws.items()
        if round(draw["epochs"], 2) > MOST_EPOCHS
    ]
    used = {dataset: None for draws in counts["variants"].values() for dataset in draws}
    for dataset in used:
        mask = f"{config.datasets[dataset]}{LOSS_MASK_SUFFIX}"
        if Path(f"{mask}.idx").is_file():
            warnings.append(f"{dataset}: loss on the tokens that {mask} names alone, not on all of them")
    return warnings


def _samples(draws: Mapping[str, Draw]) -> int:
    return sum(draw.samples for draw in draws.values())
