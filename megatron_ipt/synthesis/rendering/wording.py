"""The words of a pair: its options in an order of their own, its answer as the label of the right one."""

from __future__ import annotations

import random
from dataclasses import dataclass

from megatron_ipt.synthesis.grammar import Pair
from megatron_ipt.synthesis.rendering.separators import LINE_SEPARATOR
from megatron_ipt.synthesis.rendering.templates import Template


@dataclass(frozen=True)
class Wording:
    """What templates are filled with; `options` are lines with labels, empty where there are none."""

    question: str
    options: str
    reasoning: str
    answer: str


def word(pair: Pair, seed: str | None, template: Template) -> Wording:
    """The words of `pair`; the options are shuffled by `seed`, or stay in order where it is None."""
    options = list(pair.options)
    if seed is not None:
        random.Random(seed).shuffle(options)
    answer = template.label(options.index(pair.conclusion)) if options else pair.conclusion
    lines = [template.option.format(label=template.label(place), option=one) for place, one in enumerate(options)]
    return Wording(pair.stem, LINE_SEPARATOR.join(lines), pair.reasoning or "", answer)
