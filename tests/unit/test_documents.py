"""Documents in a sample are separated by restarting positions."""

from __future__ import annotations

import torch

from megatron_ipt.data.packed_documents import document_starts, pack_documents
from megatron_ipt.models.documents import document_mask

POSITIONS = torch.tensor([[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]])


ALL = torch.arange(5)


def visible_pairs(hidden: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor) -> list[list[tuple[int, int]]]:
    """The positions of a query and a key that it attends to, for each sample, in order."""
    return [sorted((int(queries[row]), int(keys[column])) for row, column in (~mask[0]).nonzero()) for mask in hidden]


def test_tokens_attend_neither_ahead_nor_to_other_documents() -> None:
    hidden = document_mask(POSITIONS, ALL, ALL, None)
    assert hidden.shape == (2, 1, 5, 5)
    visible = visible_pairs(hidden, ALL, ALL)
    first, second = [range(3), range(3, 5)], [range(1), range(1, 5)]
    for seen, documents in zip(visible, (first, second), strict=True):
        assert seen == [
            (query, key) for document in documents for query in document for key in document if key <= query
        ]


def test_tokens_attend_no_further_than_the_window() -> None:
    """The window of megatron-core counts the tokens before the query."""
    first, second = visible_pairs(document_mask(POSITIONS, ALL, ALL, (1, 0)), ALL, ALL)
    assert first == [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (3, 3), (4, 3), (4, 4)]
    assert second == [(0, 0), (1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (4, 3), (4, 4)]


def test_rank_with_part_of_the_tokens_attends_as_the_whole_does() -> None:
    queries, keys = torch.tensor([1, 4]), torch.tensor([1, 4, 0, 2, 3])
    for window in (None, (1, 0)):
        whole = visible_pairs(document_mask(POSITIONS, ALL, ALL, window), ALL, ALL)
        part = visible_pairs(document_mask(POSITIONS, queries, keys, window), queries, keys)
        assert part == [[pair for pair in pairs if pair[0] in (1, 4)] for pairs in whole]


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
