"""Packs examples into token sequences of one length, with a mask that puts the loss on the pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megatron_ipt.lm.prompt_tokenizer import PromptTokenizer
from megatron_ipt.pairs.grammar import Example
from megatron_ipt.pairs.prompts import example_ids

Encoded = tuple[list[int], list[int]]
"""Token ids of a context and of its pairs."""


@dataclass(frozen=True)
class TuningSequence:
    """Token ids, and 1 for each token with loss, 0 for the others; both (seq_length,), five bytes per token."""

    ids: npt.NDArray[np.uint32]
    mask: npt.NDArray[np.uint8]


def pack(
    examples: Iterable[Example], tokenizer: PromptTokenizer, seq_length: int, left_out: Counter[str]
) -> Iterator[TuningSequence]:
    """Pack the examples of one set into sequences, as many in each as fit (arXiv 2406.14491).

    An example longer than a sequence loses its last pairs; one without room for a single pair is left out. The rest of
    a sequence is EOS without loss: megatron-core cuts the token stream every `seq_length` tokens, so sequences must
    have exactly that length to stay whole.

    Args:
        examples: the examples, in order.
        tokenizer: the tokenizer, with EOS.
        seq_length: the number of tokens per sequence.
        left_out: counts the pairs and contexts that do not fit, by reason.
    """
    held: list[Encoded] = []
    room = seq_length
    for example in examples:
        encoded = _fitted(example, tokenizer, seq_length, left_out)
        if encoded is None:
            continue
        if (length := sum(map(len, encoded))) > room:
            yield _join(held, seq_length, tokenizer.eos_ids[0])
            held, room = [], seq_length
        held.append(encoded)
        room -= length
    if held:
        yield _join(held, seq_length, tokenizer.eos_ids[0])


def _join(held: list[Encoded], seq_length: int, padding_id: int) -> TuningSequence:
    ids = np.full(seq_length, padding_id, np.uint32)
    mask = np.zeros(seq_length, np.uint8)
    start = 0
    for context, pairs in held:
        boundary, end = start + len(context), start + len(context) + len(pairs)
        ids[start:end] = [*context, *pairs]
        mask[boundary:end] = 1
        start = end
    return TuningSequence(ids, mask)


def _fitted(example: Example, tokenizer: PromptTokenizer, seq_length: int, left_out: Counter[str]) -> Encoded | None:
    for kept in range(len(example.pairs), 0, -1):
        context, pairs = example_ids(tokenizer, Example(example.text, example.pairs[:kept]))
        if len(context) + len(pairs) <= seq_length:
            left_out["pair beyond the sequence"] += len(example.pairs) - kept
            return context, pairs
        if len(context) >= seq_length:
            break
    left_out["context longer than the sequence"] += 1
    return None
