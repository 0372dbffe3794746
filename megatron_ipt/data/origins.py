"""Which documents a sample was cut from."""

from __future__ import annotations

from typing import Any

from megatron.core.datasets.blended_dataset import BlendedDataset


def name_origin(dataset: Any, index: int) -> str:
    """The documents of sample `index`, by number, and the indexed dataset that holds them."""
    if isinstance(dataset, BlendedDataset):
        part = dataset.datasets[int(dataset.dataset_index[index])]
        return name_origin(part, int(dataset.dataset_sample_index[index]))
    documents = dataset._query_document_sample_shuffle_indices(index)[1]
    numbers = ", ".join(str(int(document)) for document in documents)
    return f"document{'s' if len(documents) > 1 else ''} {numbers} of {dataset.dataset.path_prefix}"
