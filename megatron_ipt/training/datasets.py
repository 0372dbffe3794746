"""The datasets of a run: samples and their order depend on its configuration and its files only."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.utils.data import Dataset

from megatron_ipt.config.batch_sizes import BatchSizes
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.corpus.manifest import Stage
from megatron_ipt.data.blends import TokenIds, build_datasets
from megatron_ipt.errors import UserError
from megatron_ipt.mixing.blend_epochs import resolve_epochs
from megatron_ipt.tokenization.tokenizers import read_tokenizer


def open_datasets(config: PretrainConfig, token_ids: TokenIds) -> tuple[Dataset[Any], Dataset[Any] | None]:
    """Open the training and the validation dataset; a collective call that builds missing sample indices."""
    training = config.training
    train_samples = BatchSizes(training).samples_after(training.train_iters)
    return build_datasets(
        resolve_epochs(config.data, training),
        token_ids,
        train_samples=train_samples,
        valid_samples=training.eval_iters * training.global_batch_size,
        seed=training.seed,
        index_cache=str(index_cache_of(config)),
        is_built_on_rank=lambda: True,
    )


def build_indices(config: PretrainConfig, stage: Stage) -> tuple[Path, int]:
    """Build the sample indices of the run in this process; returns their folder and the number of files in it.

    Raises:
        UserError: a folder cannot be written, or the data leaves nothing to train on.
    """
    cache = index_cache_of(config)
    if not stage.is_complete and Path(config.run).absolute() in cache.absolute().parents:
        _start(config, stage)  # the run folder may hold files from here on
    distributed: Any = dist
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        open_datasets(config, read_token_ids(config, stage))
    finally:
        dist.destroy_process_group()
    return cache, sum(file.suffix == ".npy" for file in cache.iterdir())


def _start(config: PretrainConfig, stage: Stage) -> None:
    try:
        stage.start()
    except OSError as error:
        raise UserError("run", config.run, f"it cannot be written: {error}", "name another folder") from error


def index_cache_of(config: PretrainConfig) -> Path:
    """The folder of the run's sample indices."""
    return Path(config.data.index_cache or Path(config.run) / "index_cache")


def read_token_ids(config: PretrainConfig, stage: Stage) -> TokenIds:
    """The ids of the tokenizer, with hashes by which a cached sample index of other data or tokenizer is recognized."""
    tokenizer = read_tokenizer(Path(config.data.tokenizer))
    files = [record for record in stage.manifest.inputs if Path(record.path).suffix in (".bin", ".idx")]
    data = hashlib.sha256("".join(record.sha256 for record in files).encode()).hexdigest()
    return TokenIds(tokenizer.vocab_size, tokenizer.eos_id, {"tokenizer": tokenizer.sha256, "data": data})
