"""How many tokens the train, validation and test parts of an indexed dataset hold, without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megatron_ipt.data.indexed_writer import read_document_lengths
from megatron_ipt.errors import UserError

PARTS = ("train", "validation", "test")


def count_tokens(prefix: Path, split: str, field: str = "split") -> dict[str, int]:
    """Tokens of each part that `split`, shares as in 99,1,0, gives documents to; the parts as megatron-core cuts them.

    Args:
        field: the setting that gives `split`.

    Raises:
        UserError: the index cannot be read, or a part with a share is left without a token (megatron-core then looks
            for samples without an end).
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
            reason = f"of the {lengths.size:,} documents of {prefix} none with a token falls to {part}"
            raise UserError(field, split, reason, "give it another share, or add documents")
    return tokens
