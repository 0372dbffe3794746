"""Packs examples into token sequences of one length, with a mask that puts the loss on the pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from megatron_ipt.corpus.indexed_writer import HAS_LOSS
from megatron_ipt.lm.prompt_tokenizer import PromptTokenizer
from megatron_ipt.pairs.grammar import Example
from megatron_ipt.pairs.prompts import example_ids
from megatron_ipt.tokenization.masked_sequences import MaskedSequence, pack_whole


def pack(
    examples: Iterable[Example], tokenizer: PromptTokenizer, seq_length: int, left_out: Counter[str]
) -> Iterator[MaskedSequence]:
    """Pack the examples of one set into sequences, as many in each as fit (arXiv 2406.14491).

    An example longer than a sequence loses its last pairs; one without room for a single pair is left out. The rest of
    a sequence is EOS without loss.

    Args:
        examples: the examples, in order.
        tokenizer: the tokenizer, with EOS.
        seq_length: the number of tokens per sequence.
        left_out: counts the pairs and contexts that do not fit, by reason.
    """
    fitted = (_fitted(example, tokenizer, seq_length, left_out) for example in examples)
    return pack_whole((one for one in fitted if one is not None), seq_length, tokenizer.eos_ids[0])


def _fitted(
    example: Example, tokenizer: PromptTokenizer, seq_length: int, left_out: Counter[str]
) -> MaskedSequence | None:
    for kept in range(len(example.pairs), 0, -1):
        context, pairs = example_ids(tokenizer, Example(example.text, example.pairs[:kept]))
        if len(context) + len(pairs) <= seq_length:
            left_out["pair beyond the sequence"] += len(example.pairs) - kept
            mask = np.repeat(np.array([0, HAS_LOSS], np.uint8), [len(context), len(pairs)])
            return MaskedSequence(np.array([*context, *pairs], np.uint32), mask)
        if len(context) >= seq_length:
            break
    left_out["context longer than the sequence"] += 1
    return None
