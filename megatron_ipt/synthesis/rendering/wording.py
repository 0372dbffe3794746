"""The words of a pair: its options in an order of their own, its answer as the label of the right one."""

from __future__ import annotations

import random
from dataclasses import dataclass

from megatron_ipt.synthesis.grammar import Pair
from megatron_ipt.synthesis.rendering.bank import PairTemplate

_PLAIN = PairTemplate(name="plain", lead="", pair="")
_CUE = "Think step by step."


@dataclass(frozen=True)
class Wording:
    """What templates are filled with; `options` are lines with labels, empty where there are none."""

    question: str
    options: str
    reasoning: str
    answer: str

    @property
    def asked(self) -> str:
        """The question with its options, where a mode has one place for both."""
        cue = _CUE if self.reasoning else ""
        return "\n".join(part for part in (self.question, self.options, cue) if part)

    @property
    def answered(self) -> str:
        """The answer with what leads to it."""
        return f"{self.reasoning}\nThe answer is {self.answer}" if self.reasoning else self.answer


def word(pair: Pair, seed: str | None, template: PairTemplate = _PLAIN) -> Wording:
    """The words of `pair`; the options are shuffled by `seed`, or stay in order where it is None."""
    options = list(pair.options)
    if seed is not None:
        random.Random(seed).shuffle(options)
    answer = template.label(options.index(pair.conclusion)) if options else pair.conclusion
    lines = [template.option.format(label=template.label(place), option=one) for place, one in enumerate(options)]
    return Wording(pair.stem, "\n".join(lines), pair.reasoning or "", answer)
