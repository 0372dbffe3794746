"""Examples as token sequences of one length, with a mask that puts the loss on the pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megatron_ipt.synthesis.grammar import Example
from megatron_ipt.synthesis.prompt_tokenizer import PromptTokenizer
from megatron_ipt.synthesis.prompts import example_ids

Encoded = tuple[list[int], list[int]]
"""Token ids of a context and of its pairs."""


@dataclass(frozen=True)
class Sequence:
    """Token ids, and for each 1 or 0: whether it carries loss; both (seq_length,), five bytes a token."""

    ids: npt.NDArray[np.uint32]
    mask: npt.NDArray[np.uint8]


def pack(
    examples: Iterable[Example], tokenizer: PromptTokenizer, seq_length: int, left_out: Counter[str]
) -> Iterator[Sequence]:
    """Sequences of examples of one set, one after another as long as they fit (arXiv 2406.14491).

    An example longer than a sequence loses its last pairs; one without room for a single pair is left out. What is
    left of a sequence is EOS without loss: megatron-core cuts the stream every `seq_length` tokens, so sequences stay
    whole.
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


def _join(held: list[Encoded], seq_length: int, padding_id: int) -> Sequence:
    ids = np.full(seq_length, padding_id, np.uint32)
    mask = np.zeros(seq_length, np.uint8)
    start = 0
    for context, pairs in held:
        border, end = start + len(context), start + len(context) + len(pairs)
        ids[start:end] = [*context, *pairs]
        mask[border:end] = 1
        start = end
    return Sequence(ids, mask)


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
