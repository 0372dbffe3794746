"""A GPT dataset's sample indices as megatron-core builds them, in memory that does not grow with the documents.

megatron-core takes some 30 bytes a document, and 100 where it is read four times. Here the order of documents is a
mapped file, which the kernel can take back; what remains is 4 bytes a document, in which megatron-core hands them over,
and 12 bytes a sample. The files are the same to the byte; a test compares them. See
megatron/core/datasets/gpt_dataset.py, `_build_document_sample_shuffle_indices`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from megatron.core.datasets import gpt_dataset, helpers
from megatron.core.datasets.gpt_dataset import GPTDataset
from megatron.core.datasets.utils import Split

_CHUNK = 1 << 20  # documents handled at a time
_LEAST_SHARE_OF_A_MIXED_EPOCH = 0.80
"""A last epoch of which less is read is shuffled by itself, so that the others are whole."""


def write_indices(dataset: GPTDataset, folder: Path) -> None:
    """Write the document, sample and shuffle index of `dataset` and their description into `folder`."""
    lengths = dataset.dataset.sequence_lengths
    first, documents = int(dataset.indices[0]), len(dataset.indices)
    starts = range(first, first + documents, _CHUNK)
    parts = [slice(start, min(start + _CHUNK, first + documents)) for start in starts]
    tokens = sum(int(lengths[part].sum(dtype=np.int64)) for part in parts)
    epochs = dataset._get_num_epochs(tokens)
    mixed_samples = _samples_of_whole_epochs(dataset, tokens, epochs)
    random_state = np.random.RandomState(dataset.config.random_seed)

    folder.mkdir(parents=True, exist_ok=True)
    mapped = np.lib.format.open_memmap(index_file(dataset, folder, "document"), "w+", np.int32, (epochs * documents,))
    order = np.asarray(mapped)  # the plain array over it is shuffled at full speed, and in the same way
    for epoch in range(epochs):
        for part in parts:
            place = epoch * documents - first
            order[place + part.start : place + part.stop] = np.arange(part.start, part.stop, dtype=np.int32)
    mixed_documents = order.size if mixed_samples is None else order.size - documents
    random_state.shuffle(order[:mixed_documents])
    random_state.shuffle(order[mixed_documents:])
    samples = helpers.build_sample_idx(
        lengths,
        order,
        dataset.config.sequence_length,
        epochs,
        tokens,
        _drops_last(dataset),
        dataset.config.add_extra_token_to_sequence,
    )
    count = samples.shape[0] - 1
    shuffled = gpt_dataset._build_shuffle_index(count if mixed_samples is None else mixed_samples, count, random_state)
    mapped.flush()
    np.save(index_file(dataset, folder, "sample"), samples)
    np.save(index_file(dataset, folder, "shuffle"), shuffled)
    _file(dataset, folder, "description.txt").write_text(dataset.unique_description)


def index_file(dataset: GPTDataset, folder: Path, name: str) -> Path:
    """Where megatron-core looks for the index `name` (document, sample or shuffle) of `dataset`."""
    return _file(dataset, folder, f"{name}_index.npy")


def _file(dataset: GPTDataset, folder: Path, ending: str) -> Path:
    stem = f"{dataset.unique_description_hash}-{type(dataset).__name__}-{dataset.index_split.name}"
    return folder / f"{stem}-{ending}"


def _samples_of_whole_epochs(dataset: GPTDataset, tokens: int, epochs: int) -> int | None:
    """The samples before the last epoch where that is shuffled by itself; None where all are shuffled together."""
    if epochs == 1:
        return None
    config: Any = dataset.config
    before = ((epochs - 1) * tokens - config.add_extra_token_to_sequence) // config.sequence_length
    an_epoch = (tokens - config.add_extra_token_to_sequence) // config.sequence_length
    of_last = dataset.num_samples - before
    return before if of_last < int(_LEAST_SHARE_OF_A_MIXED_EPOCH * an_epoch) else None


def _drops_last(dataset: GPTDataset) -> bool:
    config: Any = dataset.config
    return bool(dataset.index_split != Split.valid or config.drop_last_partial_validation_sequence)
