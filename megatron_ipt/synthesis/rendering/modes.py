"""How the pairs of one text are written in each mode (arXiv 2406.14491, released code)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from megatron_ipt.synthesis.grammar import Pair
from megatron_ipt.synthesis.rendering.bank import ModeTemplate, PairTemplate, format_of
from megatron_ipt.synthesis.rendering.wording import Wording, word

PAIR_SEPARATOR = "\n\n"
LINE = "\n"

SeedOf = Callable[[Pair], str | None]


def write_classic(pairs: Sequence[Pair], templates: Mapping[str, PairTemplate], seed_of: SeedOf) -> str:
    """A question and its answer, one pair after another."""
    written = []
    for pair in pairs:
        template = templates[format_of(pair)]
        words = word(pair, seed_of(pair), template)
        written.append(template.pair.format(**vars(words)))
    lead = templates[format_of(pairs[0])].lead
    return PAIR_SEPARATOR.join([lead, *written] if lead else written)


def write_turns(pairs: Sequence[Pair], template: ModeTemplate, seed_of: SeedOf) -> str:
    """Dialogue and next-turn: questions and answers as turns."""
    turns = [line for pair in pairs for line in _said(template, word(pair, seed_of(pair)))]
    return LINE.join([template.lead, *turns] if template.lead else turns)


def write_numbered(pairs: Sequence[Pair], template: ModeTemplate, seed_of: SeedOf) -> str:
    """All questions, then all answers."""
    words = [word(pair, seed_of(pair)) for pair in pairs]
    questions = [template.question.format(number=n, question=one.asked) for n, one in enumerate(words, start=1)]
    answers = [template.answer.format(number=n, answer=one.answered) for n, one in enumerate(words, start=1)]
    sections = [_section(template.lead, questions), _section(template.between, answers)]
    return PAIR_SEPARATOR.join(sections)


def write_inline(pairs: Sequence[Pair], template: ModeTemplate, seed_of: SeedOf) -> str:
    """Few-shot: the earlier pairs as examples of the last one."""
    *examples, task = [LINE.join(_said(template, word(pair, seed_of(pair)))) for pair in pairs]
    blocks = [template.lead, *examples, template.between if examples else "", task]
    return PAIR_SEPARATOR.join(block for block in blocks if block)


def _said(template: ModeTemplate, words: Wording) -> tuple[str, str]:
    return template.question.format(question=words.asked), template.answer.format(answer=words.answered)


def _section(heading: str, lines: Sequence[str]) -> str:
    return LINE.join([heading, *lines] if heading else lines)
