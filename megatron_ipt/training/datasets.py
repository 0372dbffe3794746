"""The datasets of a run: samples and their order depend only on its configuration and its files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from torch.utils.data import Dataset

from megatron_ipt.config.batch_sizes import BatchSizes
from megatron_ipt.config.pretrain import BlendEntry, DataConfig, PretrainConfig, ValidationSetConfig
from megatron_ipt.corpus.indexed_writer import read_document_lengths
from megatron_ipt.corpus.manifest import Stage, record_file
from megatron_ipt.data.blends import TokenIds, build_datasets
from megatron_ipt.errors import UserError
from megatron_ipt.mixing.blend_epochs import resolve_epochs
from megatron_ipt.tokenization.tokenizers import read_tokenizer


@dataclass(frozen=True)
class ValidationSet:
    """A validation dataset.

    Attributes:
        name: the name in `data.validation_sets`; empty for the validation documents of the split.
        dataset: its samples.
        iterations: the number of global batches in a validation.
    """

    name: str
    dataset: Dataset[Any]
    iterations: int


def open_datasets(config: PretrainConfig, token_ids: TokenIds) -> tuple[Dataset[Any], Dataset[Any] | None]:
    """Open the training and validation datasets of the split; a collective call that builds missing indices."""
    training = config.training
    eval_iters = training.eval_iters if _validates_on_split(config.data) else 0
    train_samples = BatchSizes(training).samples_after(training.train_iters)
    return build_datasets(
        resolve_epochs(config.data, training),
        token_ids,
        train_samples=train_samples,
        valid_samples=eval_iters * training.global_batch_size,
        seed=training.seed,
        index_cache=str(index_cache_of(config)),
        is_built_on_rank=lambda: True,
    )


def open_validation_sets(config: PretrainConfig, token_ids: TokenIds) -> list[ValidationSet]:
    """Open `data.validation_sets`, each for at most one epoch; a collective call that builds missing indices."""
    return [_open_validation_set(config, token_ids, entry) for entry in config.data.validation_sets]


def _open_validation_set(config: PretrainConfig, token_ids: TokenIds, given: ValidationSetConfig) -> ValidationSet:
    training, data = config.training, config.data
    tokens = int(read_document_lengths(Path(given.prefix)).sum(dtype=np.int64))
    batches = (tokens - 1) // data.seq_length // training.global_batch_size
    iterations = min(training.eval_iters, max(1, batches))
    # the hash of the .idx file suffices: it holds the document lengths, which determine the samples
    index = record_file(Path(f"{given.prefix}.idx"), Path())
    identifiers = {**token_ids.unique_identifiers, "data": index.sha256}
    dataset, _ = build_datasets(
        data.model_copy(update={"blend": [BlendEntry(prefix=given.prefix)], "split": "1"}),
        replace(token_ids, unique_identifiers=identifiers),
        train_samples=iterations * training.global_batch_size,
        valid_samples=0,
        seed=training.seed,
        index_cache=str(index_cache_of(config)),
        is_built_on_rank=lambda: True,
    )
    return ValidationSet(given.name, dataset, iterations)


def _validates_on_split(data: DataConfig) -> bool:
    """Return whether the split must contain validation documents: not if there are separate validation sets."""
    shares = data.split.split(",")
    return not data.validation_sets or (len(shares) > 1 and float(shares[1]) > 0)


def build_indices(config: PretrainConfig, stage: Stage) -> tuple[Path, int]:
    """Build the sample indices of the run in this process.

    Returns:
        Their folder, and the number of index files in it.

    Raises:
        UserError: a folder cannot be written, or no training documents remain.
    """
    cache = index_cache_of(config)
    if not stage.is_complete and Path(config.run).absolute() in cache.absolute().parents:
        _start(config, stage)  # a run folder may hold files only once it has a manifest
    distributed: Any = dist
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        token_ids = read_token_ids(config, stage)
        open_datasets(config, token_ids)
        open_validation_sets(config, token_ids)
    finally:
        dist.destroy_process_group()
    return cache, sum(file.suffix == ".npy" for file in cache.iterdir())


def _start(config: PretrainConfig, stage: Stage) -> None:
    try:
        stage.start()
    except OSError as error:
        raise UserError("run", config.run, f"it cannot be written: {error}", "set run to a writable folder") from error


def index_cache_of(config: PretrainConfig) -> Path:
    """Return the folder of the run's sample indices."""
    return Path(config.data.index_cache or Path(config.run) / "index_cache")


def read_token_ids(config: PretrainConfig, stage: Stage) -> TokenIds:
    """Read the tokenizer's ids; the hashes keep cached sample indices of other data or tokenizers apart."""
    tokenizer = read_tokenizer(Path(config.data.tokenizer))
    files = [record for record in stage.manifest.inputs if Path(record.path).suffix in (".bin", ".idx")]
    data = hashlib.sha256("".join(record.sha256 for record in files).encode()).hexdigest()
    return TokenIds(tokenizer.vocab_size, tokenizer.eos_id, {"tokenizer": tokenizer.sha256, "data": data})
