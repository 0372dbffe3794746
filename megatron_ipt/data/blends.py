"""Blends of indexed datasets as megatron-core's GPT datasets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path, PurePath

import torch
import torch.distributed as dist
from megatron.core.datasets.blended_dataset import BlendedDataset
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from torch.utils.data import Dataset

from megatron_ipt.config.pretrain import DataConfig
from megatron_ipt.corpus.document_ends import describe_missing_eos
from megatron_ipt.corpus.indexed_writer import LOSS_MASK_SUFFIX
from megatron_ipt.data.index_cache import ensure_indices
from megatron_ipt.data.masked_dataset import MaskedGPTDataset
from megatron_ipt.data.open_files import raise_open_files_limit
from megatron_ipt.errors import UserError

logger = logging.getLogger(__name__)

Sample = dict[str, torch.Tensor]


@dataclass(frozen=True)
class TokenIds:
    """The attributes of a tokenizer that megatron-core's datasets read.

    `unique_identifiers` is part of the description that megatron-core names cached indices by.
    """

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
) -> tuple[Dataset[Sample], Dataset[Sample] | None]:
    """Build the training and validation dataset of a blend; a collective call.

    Indices that `index_cache` lacks are built there first, by one rank or, without a shared filesystem, by one rank of
    each node.

    A sample is a dict of `tokens`, `labels`, `loss_mask`, `position_ids`, each (seq_length,). With
    `reset_attention_mask`, positions restart at document ends and the model derives its attention masks from them: a
    mask in the sample would take seq_length squared elements.

    Args:
        data: the blend and how its samples are cut.
        token_ids: the ids of the tokenizer that the data was tokenized with.
        train_samples: the number of training samples to build indices for.
        valid_samples: the number of validation samples; 0 for no validation dataset.
        seed: the seed of the order of documents and samples.
        index_cache: the folder of the sample indices.
        is_built_on_rank: returns whether this rank reads samples.

    Raises:
        UserError: the split leaves no documents for training or for the wanted validation, the cache cannot be written,
            or too few files may be open.
    """
    sizes = [train_samples, valid_samples, 0]
    identity = _identity(data, token_ids, sizes, seed)
    build = partial(_build, data, token_ids, sizes, seed, is_built_on_rank)
    raise_open_files_limit(_open_files(data), "data.blend", f"{len(data.blend)} datasets")
    ensure_indices(Path(index_cache), identity, build)
    train, valid = build(index_cache)
    _warn_of_missing_eos(data, token_ids.eod)
    if train is None:
        raise UserError("data.split", data.split, "no documents are left for training", "give training a larger share")
    if valid is None and valid_samples:
        raise UserError(
            "data.split",
            data.split,
            "no documents are left for validation",
            "give it a larger share, or set training.eval_iters=0",
        )
    return train, valid


def _build(
    data: DataConfig,
    token_ids: TokenIds,
    sizes: list[int],
    seed: int,
    is_built_on_rank: Callable[[], bool],
    index_cache: str,
) -> tuple[Dataset[Sample] | None, Dataset[Sample] | None]:
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


def _warn_of_missing_eos(data: DataConfig, eos_id: int) -> None:
    if dist.is_initialized() and dist.get_rank() != 0:
        return
    for warning in describe_missing_eos(data, eos_id):
        logger.warning(warning)


def _open_files(data: DataConfig) -> int:
    """Count the files that megatron-core maps: PREFIX.bin (twice), PREFIX.idx, and three indices per split."""
    masks = sum(Path(f"{entry.prefix}{LOSS_MASK_SUFFIX}.idx").is_file() for entry in data.blend)
    splits = sum(float(share) > 0 for share in data.split.split(","))
    return 3 * (len(data.blend) + masks) + 3 * splits * len(data.blend)


def _identity(data: DataConfig, token_ids: TokenIds, sizes: Sequence[int], seed: int) -> dict[str, object]:
    """Return everything that determines the content of the indices."""
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
    # megatron-core builds a plain GPT dataset, not a blend of one, only from a single prefix without weights
    return [entry.share for entry in data.blend] if len(data.blend) > 1 else None


def name_datasets(prefixes: Sequence[str]) -> list[str]:
    """Name each dataset of a blend by as much of the end of its path as distinguishes it from the others."""
    paths = [PurePath(prefix).parts for prefix in prefixes]
    by_depth = (["/".join(parts[-depth:]) for parts in paths] for depth in range(1, max(map(len, paths)) + 1))
    return next(names for names in by_depth if len(set(names)) == len(names))


def describe_documents(dataset: GPTDataset | BlendedDataset, index: int) -> str:
    """Name the documents that sample `index` was cut from, by number, and their indexed dataset."""
    if isinstance(dataset, BlendedDataset):
        entry = dataset.datasets[int(dataset.dataset_index[index])]
        return describe_documents(entry, int(dataset.dataset_sample_index[index]))
    documents = dataset._query_document_sample_shuffle_indices(index)[1]
    numbers = ", ".join(str(int(document)) for document in documents)
    return f"document{'s' if len(documents) > 1 else ''} {numbers} of {dataset.dataset.path_prefix}"
