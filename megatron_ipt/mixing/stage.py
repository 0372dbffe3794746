"""The mixture stage: a blend of indexed datasets for each variant, as YAML settings for the trainer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypedDict, cast

from megatron_ipt.config.checks import is_split
from megatron_ipt.config.mixture import MixtureConfig
from megatron_ipt.config.settings import identity_of
from megatron_ipt.corpus.indexed_writer import LOSS_MASK_SUFFIX
from megatron_ipt.corpus.manifest import Stage, write_atomically
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.mixing.document_split import count_tokens
from megatron_ipt.mixing.mixtures import MAX_USEFUL_EPOCHS, Allocation, find_repeated_datasets, plan_mixtures


class AllocationCounts(TypedDict):
    """The samples, tokens and epochs of one dataset in one variant."""

    samples: int
    tokens: int
    available_tokens: int
    epochs: float


class MixtureCounts(TypedDict):
    """The counts of the stage: every variant has `train_iters` steps and `tokens` tokens."""

    train_iters: int
    tokens: int
    variants: dict[str, dict[str, AllocationCounts]]


def build_mixtures(config: MixtureConfig) -> MixtureCounts:
    """Write blend.VARIANT.yaml for each variant into `config.output`, and return the counts.

    Raises:
        UserError: a setting or a dataset is invalid, or the output folder holds something else.
    """
    if not is_split(config.split) or not float(config.split.partition(",")[0]):
        reason = "not a split, or no share for training"
        raise UserError("split", config.split, reason, "write TRAIN,VALIDATION,TEST, such as 99,1,0")
    used = [name for name in config.datasets if any(name in variant for variant in config.variants.values())]
    indices = [Path(f"{config.datasets[name]}.idx") for name in used]
    identity = identity_of(config)
    stage = Stage("mix", Path(config.output), identity, indices, trusts_manifests=True)
    if stage.is_complete:
        return cast(MixtureCounts, stage.counts)
    if repeated := [problem for name in config.variants for problem in _find_repeated(config, name)]:
        raise UserError.of(repeated)
    tokens = {name: count_tokens(Path(config.datasets[name]), config.split)["train"] for name in used}
    plans = plan_mixtures(config, tokens)
    stage.start()
    files = [stage.folder / f"blend.{name}.yaml" for name in plans]
    for file, (name, allocations) in zip(files, plans.items(), strict=True):
        write_atomically(file, render_blend(config, name, allocations))
    samples = _count_samples(next(iter(plans.values())))  # the same for every variant
    counts: MixtureCounts = {
        "train_iters": samples // config.global_batch_size,
        "tokens": config.seq_length * samples,
        "variants": {
            name: {dataset: _counts_of(allocation) for dataset, allocation in allocations.items()}
            for name, allocations in plans.items()
        },
    }
    stage.finish(files, counts)
    return counts


def _find_repeated(config: MixtureConfig, name: str) -> Iterator[Problem]:
    known = [dataset for dataset in config.variants[name] if dataset in config.datasets]
    return find_repeated_datasets((f"variants.{name}.{dataset}", config.datasets[dataset]) for dataset in known)


def render_blend(config: MixtureConfig, name: str, allocations: Mapping[str, Allocation]) -> str:
    """Render the settings of a training run: the blend, and all settings that its numbers depend on."""
    samples = _count_samples(allocations)
    lines = [
        f"# Mixture {name}: {samples * config.seq_length:,} tokens. Weights are samples of {config.seq_length} tokens.",
        "data:",
        "  blend:",
    ]
    for dataset, taken in allocations.items():
        lines += [
            f"    - prefix: {json.dumps(config.datasets[dataset], ensure_ascii=False)}",
            f"      weight: {taken.samples} # {dataset}: {taken.tokens:,} tokens, {taken.samples / samples:.2%},"
            f" {taken.epochs:.3f} epochs",
        ]
    lines += [
        f"  seq_length: {config.seq_length}",
        f'  split: "{config.split}"',
        "training:",
        f"  train_iters: {samples // config.global_batch_size}",
        f"  global_batch_size: {config.global_batch_size}",
    ]
    return "\n".join(lines) + "\n"


def find_warnings(config: MixtureConfig, counts: MixtureCounts) -> list[str]:
    """Return warnings about mixtures that a user should see before training on them."""
    warnings = [
        f"{name}: {dataset} is read {taken['epochs']:.1f} times; beyond {MAX_USEFUL_EPOCHS}, repeated data adds little"
        for name, allocations in counts["variants"].items()
        for dataset, taken in allocations.items()
        if round(taken["epochs"], 2) > MAX_USEFUL_EPOCHS
    ]
    used = {dataset: None for allocations in counts["variants"].values() for dataset in allocations}
    for dataset in used:
        mask = f"{config.datasets[dataset]}{LOSS_MASK_SUFFIX}"
        if Path(f"{mask}.idx").is_file():
            warnings.append(f"{dataset}: only the tokens selected by {mask} have loss")
    return warnings


def _count_samples(allocations: Mapping[str, Allocation]) -> int:
    return sum(allocation.samples for allocation in allocations.values())


def _counts_of(allocation: Allocation) -> AllocationCounts:
    return {
        "samples": allocation.samples,
        "tokens": allocation.tokens,
        "available_tokens": allocation.available_tokens,
        "epochs": round(allocation.epochs, 4),
    }
