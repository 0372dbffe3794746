"""Pairs for a group of chains: round by round, all chains of a round in one call of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from megatron_ipt.synthesis.chains import Chain
from megatron_ipt.synthesis.counts import Counts
from megatron_ipt.synthesis.engine import Engine
from megatron_ipt.synthesis.grammar import Example, parse_pairs
from megatron_ipt.synthesis.prompts import PromptBuilder


@dataclass
class Augmented:
    """A chain with the pairs of its texts, in order."""

    chain: Chain
    examples: list[Example] = field(default_factory=list)


def augment(
    chains: Sequence[Chain], engine: Engine, builder: PromptBuilder, max_new_tokens: int
) -> tuple[list[Augmented], Counts]:
    """The chains with their pairs; in round r the r-th text of each chain, after those before it (M-shot)."""
    results = [Augmented(chain) for chain in chains]
    counts = Counts(documents=len(chains), texts=sum(len(chain.texts) for chain in chains))
    for result in results:
        if not result.chain.augmented:
            result.examples = [Example(text.text, ()) for text in result.chain.texts]
    rounds = max((len(chain.texts) for chain in chains if chain.augmented), default=0)
    for number in range(rounds):
        taking_part = [one for one in results if one.chain.augmented and number < len(one.chain.texts)]
        _run_round(number, taking_part, engine, builder, max_new_tokens, counts)
    return results, counts


def _run_round(
    number: int, results: list[Augmented], engine: Engine, builder: PromptBuilder, max_new_tokens: int, counts: Counts
) -> None:
    prompts = [builder.build(one.examples, one.chain.texts[number].text) for one in results]
    generations = engine.generate([prompt.ids for prompt in prompts], max_new_tokens)
    for one, prompt, generation in zip(results, prompts, generations, strict=True):
        parsed = parse_pairs(builder.opening + generation.text)
        one.examples.append(Example(one.chain.texts[number].text, parsed.pairs))
        counts.augmented_texts += 1
        counts.texts_without_pairs += not parsed.pairs
        counts.pairs += len(parsed.pairs)
        counts.texts_cut += prompt.text_was_cut
        counts.generated_tokens += generation.tokens
        counts.drops.update(parsed.drops)
