"""Token counts of the train, validation and test parts of an indexed dataset; without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megatron_ipt.corpus.indexed_writer import read_document_lengths
from megatron_ipt.errors import UserError

PARTS = ("train", "validation", "test")


def count_tokens(prefix: Path, split: str, field: str = "split") -> dict[str, int]:
    """Count the tokens of each part that `split` (shares, such as 99,1,0) assigns documents to, as megatron-core does.

    Args:
        prefix: the dataset, without .bin or .idx.
        split: the shares of train, validation and test.
        field: the setting that gives `split`, for messages.

    Raises:
        UserError: the index cannot be read, or a part with a share gets no token (megatron-core would then search for
            samples forever).
    """
    lengths = read_document_lengths(prefix)
    shares = np.array([float(share) for share in split.split(",")])
    ends = [0.0, *np.cumsum(shares / shares.sum()).tolist()]
    bounds = [round(end * lengths.size) for end in ends]
    tokens: dict[str, int] = {}
    for part, share, start, stop in zip(PARTS, shares, bounds[:-1], bounds[1:], strict=False):
        if not share:
            continue
        tokens[part] = int(lengths[start:stop].sum(dtype=np.int64))
        if not tokens[part]:
            reason = f"none of the {lengths.size:,} documents of {prefix} that has a token is assigned to {part}"
            raise UserError(field, split, reason, "give it another share, or add documents")
    return tokens
