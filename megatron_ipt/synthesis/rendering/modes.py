"""The rendering of the pairs of one text in each mode (arXiv 2406.14491, released code)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from megatron_ipt.pairs.formats import format_of
from megatron_ipt.pairs.grammar import Pair
from megatron_ipt.synthesis.rendering.templates import (
    BLOCK_SEPARATOR,
    LINE_SEPARATOR,
    ModeTemplate,
    PairTemplate,
    pair_fields,
)

SeedOf = Callable[[Pair], str | None]


def write_classic(pairs: Sequence[Pair], templates: Mapping[str, PairTemplate], seed_of: SeedOf) -> str:
    """Write each question with its answer, one pair after another; the lead of a format precedes its first pair."""
    blocks: list[str] = []
    led: set[str] = set()
    for pair in pairs:
        template = templates[format_of(pair)]
        if template.lead and template.lead not in led:
            blocks.append(template.lead)
            led.add(template.lead)
        blocks.append(template.pair.format(**vars(pair_fields(pair, seed_of(pair), template))))
    return BLOCK_SEPARATOR.join(blocks)


def write_turns(pairs: Sequence[Pair], template: ModeTemplate, seed_of: SeedOf) -> str:
    """Write questions and answers as turns: dialogue and next-turn mode."""
    turns = [turn for pair in pairs for turn in _write_pair(pair, template, seed_of)]
    return _section(template.lead, turns)


def write_numbered(pairs: Sequence[Pair], template: ModeTemplate, seed_of: SeedOf) -> str:
    """Write all questions, then all answers."""
    turns = [_write_pair(pair, template, seed_of, number) for number, pair in enumerate(pairs, start=1)]
    questions = _section(template.lead, [question for question, _ in turns])
    answers = _section(template.between, [answer for _, answer in turns])
    return BLOCK_SEPARATOR.join([questions, answers])


def write_inline(pairs: Sequence[Pair], template: ModeTemplate, seed_of: SeedOf) -> str:
    """Write the earlier pairs as few-shot examples of the last one; a single pair is written alone."""
    *examples, task = [LINE_SEPARATOR.join(_write_pair(pair, template, seed_of)) for pair in pairs]
    blocks = [template.lead, *examples, template.between, task] if examples else [task]
    return BLOCK_SEPARATOR.join(block for block in blocks if block)


def _write_pair(pair: Pair, template: ModeTemplate, seed_of: SeedOf, number: int | None = None) -> tuple[str, str]:
    fields = pair_fields(pair, seed_of(pair), template)
    lines = [fields.question, fields.options, template.cue if fields.reasoning else ""]
    question = LINE_SEPARATOR.join(line for line in lines if line)
    answer = template.reasoned.format(**vars(fields)) if fields.reasoning else fields.answer
    return (
        template.question.format(number=number, question=question),
        template.answer.format(number=number, answer=answer),
    )


def _section(heading: str, lines: Sequence[str]) -> str:
    return LINE_SEPARATOR.join([heading, *lines] if heading else lines)
