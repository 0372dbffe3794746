"""Sequences of equal length with a loss mask, packed from whole examples and written as two datasets.

megatron-core cuts the token stream every `seq_length` tokens, so each sequence must have exactly that length to become
one sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_ipt.corpus.indexed_writer import LOSS_MASK_SUFFIX, LOSS_MASK_VALUES, IndexedWriter


@dataclass(frozen=True)
class MaskedSequence:
    """Token ids, and the flags of a loss mask for each token; both (tokens,), five bytes per token."""

    ids: npt.NDArray[np.uint32]
    mask: npt.NDArray[np.uint8]


def pack_whole(examples: Iterable[MaskedSequence], seq_length: int, padding_id: int) -> Iterator[MaskedSequence]:
    """Pack examples into sequences, in order, as many into each as fit; the rest is padding without loss.

    Args:
        examples: each of at most `seq_length` tokens.
        seq_length: the number of tokens per sequence.
        padding_id: the id that fills a sequence up.
    """
    held: list[MaskedSequence] = []
    room = seq_length
    for example in examples:
        assert example.ids.size <= seq_length
        if example.ids.size > room:
            yield _join(held, seq_length, padding_id)
            held, room = [], seq_length
        held.append(example)
        room -= example.ids.size
    if held:
        yield _join(held, seq_length, padding_id)


def _join(held: Sequence[MaskedSequence], seq_length: int, padding_id: int) -> MaskedSequence:
    ids = np.full(seq_length, padding_id, np.uint32)
    mask = np.zeros(seq_length, np.uint8)
    start = 0
    for example in held:
        end = start + example.ids.size
        ids[start:end], mask[start:end] = example.ids, example.mask
        start = end
    return MaskedSequence(ids, mask)


def write_sequences(sequences: Iterable[MaskedSequence], prefix: Path, vocab_size: int) -> list[Path]:
    """Write the ids of each sequence as a document of PREFIX and its mask as one of PREFIX_loss_mask.

    Returns:
        The .bin and .idx files of both datasets.
    """
    mask_prefix = Path(f"{prefix}{LOSS_MASK_SUFFIX}")
    with ExitStack() as stack:
        ids = stack.enter_context(IndexedWriter(prefix, vocab_size))
        masks = stack.enter_context(IndexedWriter(mask_prefix, LOSS_MASK_VALUES))
        for sequence in sequences:
            length = np.array([sequence.ids.size])
            ids.add(sequence.ids, length)
            masks.add(sequence.mask, length)
    return [Path(f"{one}{ending}") for one in (prefix, mask_prefix) for ending in (".bin", ".idx")]
