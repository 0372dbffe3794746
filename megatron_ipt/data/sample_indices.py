"""The sample indices of a GPT dataset, equal to megatron-core's, built with memory independent of the documents.

megatron-core takes about 30 bytes per document, and 100 if the data is read four times. Here, the order
of the documents is a memory-mapped file, whose pages the kernel can reclaim. What remains is 4 bytes per document, the
form in which megatron-core passes them, and 12 bytes per sample. The files are byte-identical to megatron-core's; a
test compares them. See megatron/core/datasets/gpt_dataset.py, `_build_document_sample_shuffle_indices`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from megatron.core.datasets import gpt_dataset, helpers
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.utils import Split

_CHUNK = 1 << 20  # documents processed at a time
_SEPARATE_EPOCH_THRESHOLD = 0.80
"""Fraction of the last epoch below which megatron-core shuffles it separately, so that the others stay complete."""


def write_indices(dataset: GPTDataset, folder: Path) -> None:
    """Write the document, sample and shuffle index of `dataset`, and their description, into `folder`.

    The document index lists the documents of all epochs in reading order, (epochs x documents,); the sample index gives
    the document and offset at which each sample starts, (samples + 1, 2); the shuffle index is the order of the
    samples.
    """
    config: GPTDatasetConfig = dataset.config
    lengths = dataset.dataset.sequence_lengths
    first, documents = int(dataset.indices[0]), len(dataset.indices)
    starts = range(first, first + documents, _CHUNK)
    parts = [slice(start, min(start + _CHUNK, first + documents)) for start in starts]
    tokens = sum(int(lengths[part].sum(dtype=np.int64)) for part in parts)
    epochs = dataset._get_num_epochs(tokens)
    separate_from = _samples_before_last_epoch(dataset, tokens, epochs)
    random_state = np.random.RandomState(config.random_seed)

    folder.mkdir(parents=True, exist_ok=True)
    mapped = np.lib.format.open_memmap(index_file(dataset, folder, "document"), "w+", np.int32, (epochs * documents,))
    order = np.asarray(mapped)  # numpy's fast shuffle is for plain arrays; a memmap takes a slow one, of equal result
    for epoch in range(epochs):
        for part in parts:
            shift = epoch * documents - first
            order[shift + part.start : shift + part.stop] = np.arange(part.start, part.stop, dtype=np.int32)
    together = order.size if separate_from is None else order.size - documents
    # the order of these calls is part of the result: they advance one random state, as in megatron-core
    random_state.shuffle(order[:together])
    random_state.shuffle(order[together:])
    samples = helpers.build_sample_idx(
        lengths,
        order,
        config.sequence_length,
        epochs,
        tokens,
        dataset.index_split != Split.valid or config.drop_last_partial_validation_sequence,
        config.add_extra_token_to_sequence,
    )
    count = samples.shape[0] - 1
    shuffled = gpt_dataset._build_shuffle_index(count if separate_from is None else separate_from, count, random_state)
    mapped.flush()
    np.save(index_file(dataset, folder, "sample"), samples)
    np.save(index_file(dataset, folder, "shuffle"), shuffled)
    _file(dataset, folder, "description.txt").write_text(dataset.unique_description)


def index_file(dataset: GPTDataset, folder: Path, name: str) -> Path:
    """Return the file in which megatron-core looks for the index `name` (document, sample or shuffle) of `dataset`."""
    return _file(dataset, folder, f"{name}_index.npy")


def _file(dataset: GPTDataset, folder: Path, ending: str) -> Path:
    stem = f"{dataset.unique_description_hash}-{type(dataset).__name__}-{dataset.index_split.name}"
    return folder / f"{stem}-{ending}"


def _samples_before_last_epoch(dataset: GPTDataset, tokens: int, epochs: int) -> int | None:
    """Return the number of samples before a last epoch that is shuffled separately; None if it is not."""
    if epochs == 1:
        return None
    config: GPTDatasetConfig = dataset.config
    before = ((epochs - 1) * tokens - config.add_extra_token_to_sequence) // config.sequence_length
    per_epoch = (tokens - config.add_extra_token_to_sequence) // config.sequence_length
    in_last = dataset.num_samples - before
    return before if in_last < int(_SEPARATE_EPOCH_THRESHOLD * per_epoch) else None
