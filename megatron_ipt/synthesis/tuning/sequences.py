"""Examples as token sequences of one length, with a mask that puts the loss on the pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from megatron_ipt.synthesis.grammar import Example
from megatron_ipt.synthesis.prompt_tokenizer import PromptTokenizer
from megatron_ipt.synthesis.prompts import example_ids


@dataclass
class Sequence:
    """Token ids and, for each, whether it carries loss; both as long as the sequence."""

    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    examples: int = 0

    def add(self, context: list[int], pairs: list[int]) -> None:
        """Put an example behind those that are there."""
        self.ids += [*context, *pairs]
        self.mask += [*[0] * len(context), *[1] * len(pairs)]
        self.examples += 1

    def padded(self, seq_length: int, padding_id: int) -> Sequence:
        """Filled up without loss: megatron-core cuts the stream every `seq_length` tokens, so sequences stay whole."""
        missing = seq_length - len(self.ids)
        return Sequence([*self.ids, *[padding_id] * missing], [*self.mask, *[0] * missing], self.examples)


def pack(
    examples: Iterable[Example], tokenizer: PromptTokenizer, seq_length: int, left_out: Counter[str]
) -> Iterator[Sequence]:
    """Sequences of examples of one set, one after another as long as they fit (arXiv 2406.14491).

    An example longer than a sequence loses its last pairs; one whose context alone is too long is left out.
    """
    sequence = Sequence()
    for example in examples:
        encoded = _fitted(example, tokenizer, seq_length, left_out)
        if encoded is None:
            continue
        if len(sequence.ids) + sum(map(len, encoded)) > seq_length:
            yield sequence.padded(seq_length, tokenizer.eos_ids[0])
            sequence = Sequence()
        sequence.add(*encoded)
    if sequence.examples:
        yield sequence.padded(seq_length, tokenizer.eos_ids[0])


def _fitted(
    example: Example, tokenizer: PromptTokenizer, seq_length: int, left_out: Counter[str]
) -> tuple[list[int], list[int]] | None:
    for kept in range(len(example.pairs), 0, -1):
        context, pairs = example_ids(tokenizer, Example(example.text, example.pairs[:kept]))
        if len(context) + len(pairs) <= seq_length:
            left_out["pair beyond the sequence"] += len(example.pairs) - kept
            return context, pairs
        if len(context) >= seq_length:
            break
    left_out["context longer than the sequence"] += 1
    return None
