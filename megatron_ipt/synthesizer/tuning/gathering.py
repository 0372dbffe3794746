"""Gathers all pairs of a context, holds out examples for scoring, and selects the contexts to train on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from megatron_ipt.config.tuning_set import TuningSetConfig
from megatron_ipt.corpus.stable_hash import stable_hash
from megatron_ipt.pairs.grammar import Example, Pair, parse_pairs, render_pairs
from megatron_ipt.synthesizer.tuning.collections import SourceRow


@dataclass
class Gathered:
    """Examples by set, for training and for scoring, and the number of pairs and contexts left out, by reason."""

    training: dict[str, list[Example]] = field(default_factory=dict)
    heldout_sets: dict[str, list[Example]] = field(default_factory=dict)
    heldout_contexts: dict[str, list[Example]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)


def gather(sources: Iterable[SourceRow], config: TuningSetConfig) -> Gathered:
    """Sort the rows into training and held-out examples; a held-out context is not trained on, whatever its set."""
    gathered = Gathered()
    for name, contexts in sorted(_by_set(sources, gathered.left_out).items()):
        examples = sorted(_examples(contexts), key=lambda example: stable_hash(config.seed, name, example.text))
        if name in config.heldout_sets:
            gathered.heldout_sets[name] = examples
            continue
        gathered.heldout_contexts[name] = examples[: config.heldout_contexts]
        gathered.training[name] = examples[config.heldout_contexts :]
    held_out = {
        _normalize(example.text)
        for sets in (gathered.heldout_sets, gathered.heldout_contexts)
        for examples in sets.values()
        for example in examples
    }
    for name, examples in gathered.training.items():
        gathered.training[name] = _select(examples, held_out, config, gathered.left_out)
    return gathered


def _by_set(sources: Iterable[SourceRow], left_out: Counter[str]) -> dict[str, dict[str, dict[str, Pair]]]:
    """Group the pairs: set → context → casefolded question → pair, in the order of the rows."""
    sets: dict[str, dict[str, dict[str, Pair]]] = {}
    for source in sources:
        if not source.context:
            left_out["empty context"] += 1
            continue
        pairs = sets.setdefault(source.set, {}).setdefault(source.context, {})
        for pair in source.pairs:
            parsed = parse_pairs(render_pairs([pair]))
            if parsed.pairs != (pair,):
                left_out[next(iter(parsed.drops), "not a pair of the grammar")] += 1
            elif pairs.setdefault(pair.question.casefold(), pair) is not pair:
                left_out["repeated question"] += 1
    return sets


def _examples(contexts: Mapping[str, Mapping[str, Pair]]) -> Iterator[Example]:
    return (Example(context, tuple(pairs.values())) for context, pairs in contexts.items() if pairs)


def _select(
    examples: list[Example], held_out: set[str], config: TuningSetConfig, left_out: Counter[str]
) -> list[Example]:
    """Select at most `max_examples_per_set` examples, those with the most pairs, in their original order."""
    clean = [example for example in examples if _normalize(example.text) not in held_out]
    rich = [example for example in clean if len(example.pairs) >= config.min_pairs]
    left_out["context held out elsewhere"] += len(examples) - len(clean)
    left_out["context with too few pairs"] += len(clean) - len(rich)
    left_out["context beyond the most of a set"] += max(len(rich) - config.max_examples_per_set, 0)
    best = sorted(range(len(rich)), key=lambda index: -len(rich[index].pairs))[: config.max_examples_per_set]
    return [rich[index] for index in sorted(best)]


def _normalize(text: str) -> str:
    return " ".join(text.casefold().split())
