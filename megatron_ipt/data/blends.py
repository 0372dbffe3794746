"""Blends of indexed datasets as megatron-core's GPT datasets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any

import torch.distributed as dist
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDatasetConfig
from torch.utils.data import Dataset

from megatron_ipt.config.pretrain import DataConfig
from megatron_ipt.data.document_ends import describe_missing_ends
from megatron_ipt.data.index_cache import provide_indices
from megatron_ipt.data.indexed_writer import LOSS_MASK_SUFFIX
from megatron_ipt.data.masked_dataset import MaskedGPTDataset
from megatron_ipt.data.open_files import allow_open_files
from megatron_ipt.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenIds:
    """What megatron-core's datasets ask of a tokenizer; `unique_identifiers` decide which cached index fits."""

    vocab_size: int
    eod: int
    unique_identifiers: Mapping[str, str]


def build_datasets(
    data: DataConfig,
    token_ids: TokenIds,
    *,
    train_samples: int,
    valid_samples: int,
    seed: int,
    index_cache: str,
    is_built_on_rank: Callable[[], bool],
) -> tuple[Dataset[Any], Dataset[Any] | None]:
    """The train and the validation dataset of a blend; a collective call.

    Indices that `index_cache` lacks are built there first, by one rank of all or, without a shared filesystem, of each
    node.

    A sample is a dict of `tokens`, `labels`, `loss_mask`, `position_ids`, each (seq_length,). Where attention ends at
    document ends, positions restart there and the model makes its own masks: they would weigh seq_length squared.
    """
    sizes = [train_samples, valid_samples, 0]
    identity = _identity(data, token_ids, sizes, seed)
    build = partial(_build, data, token_ids, sizes, seed, is_built_on_rank)
    allow_open_files(_open_files(data), "data.blend", f"{len(data.blend)} datasets")
    provide_indices(Path(index_cache), identity, build)
    train, valid = build(index_cache)
    _warn_of_missing_ends(data, token_ids.eod)
    if train is None:
        raise UserError("data.split", data.split, "no documents are left for training", "give training a share")
    if valid is None and valid_samples:
        raise UserError(
            "data.split", data.split, "no documents are left for validation", "give it a share, or set eval_iters=0"
        )
    return train, valid


def _build(
    data: DataConfig,
    token_ids: TokenIds,
    sizes: list[int],
    seed: int,
    is_built_on_rank: Callable[[], bool],
    index_cache: str,
) -> tuple[Dataset[Any] | None, Dataset[Any] | None]:
    config = GPTDatasetConfig(
        random_seed=seed,
        sequence_length=data.seq_length,
        blend=([entry.prefix for entry in data.blend], _weights(data)),
        split=data.split,
        path_to_cache=index_cache,
        tokenizer=token_ids,
        reset_position_ids=data.reset_position_ids or data.reset_attention_mask,
        reset_attention_mask=data.reset_attention_mask,
        eod_mask_loss=data.eod_mask_loss,
        create_attention_mask=False,
    )
    train, valid, _ = BlendedMegatronDatasetBuilder(MaskedGPTDataset, sizes, is_built_on_rank, config).build()
    return train, valid


def _warn_of_missing_ends(data: DataConfig, eos_id: int) -> None:
    if dist.is_initialized() and dist.get_rank():
        return
    for warning in describe_missing_ends(data, eos_id):
        logger.warning(warning)


def _open_files(data: DataConfig) -> int:
    """The files that megatron-core maps: PREFIX.bin (twice), PREFIX.idx, and three indices of each part."""
    masks = sum(Path(f"{entry.prefix}{LOSS_MASK_SUFFIX}.idx").is_file() for entry in data.blend)
    parts = sum(float(share) > 0 for share in data.split.split(","))
    return 3 * (len(data.blend) + masks) + 3 * parts * len(data.blend)


def _identity(data: DataConfig, token_ids: TokenIds, sizes: Sequence[int], seed: int) -> dict[str, Any]:
    """All that decides what is in the indices."""
    return {
        "prefixes": [entry.prefix for entry in data.blend],
        "weights": _weights(data),
        "split": data.split,
        "seq_length": data.seq_length,
        "samples": list(sizes),
        "seed": seed,
        "token_ids": dict(token_ids.unique_identifiers),
        "megatron-core": version("megatron-core"),
    }


def _weights(data: DataConfig) -> list[float | None] | None:
    return [entry.share for entry in data.blend] if len(data.blend) > 1 else None


def name_sources(prefixes: Sequence[str]) -> list[str]:
    """A name for each entry of a blend: as much of the end of its path as distinguishes it from the others."""
    paths = [PurePath(prefix).parts for prefix in prefixes]
    by_depth = (["/".join(parts[-depth:]) for parts in paths] for depth in range(1, max(map(len, paths)) + 1))
    return next(names for names in by_depth if len(set(names)) == len(names))
