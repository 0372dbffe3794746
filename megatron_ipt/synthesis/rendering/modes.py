"""How the pairs of one text are written in each mode (arXiv 2406.14491, released code)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from megatron_ipt.synthesis.grammar import Pair
from megatron_ipt.synthesis.pair_formats import format_of
from megatron_ipt.synthesis.rendering.separators import BLOCK_SEPARATOR, LINE_SEPARATOR
from megatron_ipt.synthesis.rendering.templates import ModeTemplate, PairTemplate
from megatron_ipt.synthesis.rendering.wording import word

SeedOf = Callable[[Pair], str | None]


def write_classic(pairs: Sequence[Pair], templates: Mapping[str, PairTemplate], seed_of: SeedOf) -> str:
    """A question and its answer, one pair after another; a format's lead stands before its first pair."""
    blocks: list[str] = []
    led: set[str] = set()
    for pair in pairs:
        template = templates[format_of(pair)]
        if template.lead and template.lead not in led:
            blocks.append(template.lead)
            led.add(template.lead)
        blocks.append(template.pair.format(**vars(word(pair, seed_of(pair), template))))
    return BLOCK_SEPARATOR.join(blocks)


def write_turns(pairs: Sequence[Pair], template: ModeTemplate, seed_of: SeedOf) -> str:
    """Dialogue and next-turn: questions and answers as turns."""
    turns = [turn for pair in pairs for turn in _say(pair, template, seed_of)]
    return _section(template.lead, turns)


def write_numbered(pairs: Sequence[Pair], template: ModeTemplate, seed_of: SeedOf) -> str:
    """All questions, then all answers."""
    said = [_say(pair, template, seed_of, number) for number, pair in enumerate(pairs, start=1)]
    questions = _section(template.lead, [question for question, _ in said])
    answers = _section(template.between, [answer for _, answer in said])
    return BLOCK_SEPARATOR.join([questions, answers])


def write_inline(pairs: Sequence[Pair], template: ModeTemplate, seed_of: SeedOf) -> str:
    """Few-shot: the earlier pairs as examples of the last one; where there is one pair, it stands alone."""
    *examples, task = [LINE_SEPARATOR.join(_say(pair, template, seed_of)) for pair in pairs]
    blocks = [template.lead, *examples, template.between, task] if examples else [task]
    return BLOCK_SEPARATOR.join(block for block in blocks if block)


def _say(pair: Pair, template: ModeTemplate, seed_of: SeedOf, number: int | None = None) -> tuple[str, str]:
    words = word(pair, seed_of(pair), template)
    asked = [words.question, words.options, template.cue if words.reasoning else ""]
    question = LINE_SEPARATOR.join(part for part in asked if part)
    answer = template.reasoned.format(**vars(words)) if words.reasoning else words.answer
    return (
        template.question.format(number=number, question=question),
        template.answer.format(number=number, answer=answer),
    )


def _section(heading: str, lines: Sequence[str]) -> str:
    return LINE_SEPARATOR.join([heading, *lines] if heading else lines)
