"""Documents in a sample are separated by restarting positions."""

from __future__ import annotations

import torch

from megatron_ipt.data.packed_documents import document_starts, pack_documents
from megatron_ipt.models.documents import document_mask

POSITIONS = torch.tensor([[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]])


def test_tokens_attend_neither_ahead_nor_to_other_documents() -> None:
    hidden = document_mask(POSITIONS)
    assert hidden.shape == (2, 1, 5, 5)
    visible = [
        [(query, key) for query in range(5) for key in range(5) if not hidden[row, 0, query, key]] for row in (0, 1)
    ]
    first, second = [range(3), range(3, 5)], [range(1), range(1, 5)]
    for seen, documents in zip(visible, (first, second), strict=True):
        assert seen == [
            (query, key) for document in documents for query in document for key in document if key <= query
        ]


def test_concatenated_samples_start_new_documents() -> None:
    starts = document_starts(POSITIONS)
    assert starts.tolist() == [0, 3, 5, 6, 10]
    assert starts.dtype == torch.int32


def test_longest_document_bounds_the_attention() -> None:
    """Not the length of the samples, for which Transformer Engine may have to take slower kernels; in steps of 128."""
    lengths = (100, 200, 724)
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    packed = pack_documents(positions, torch.device("cpu"))
    assert packed.cu_seqlens_q.tolist() == [0, 100, 300, 1024]
    assert (packed.max_seqlen_q, packed.max_seqlen_kv) == (768, 768)
    assert pack_documents(POSITIONS, torch.device("cpu")).max_seqlen_q == 5
