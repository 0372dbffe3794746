"""Entries of the template bank, the separators between parts of a document, and the fields that fill a template.

BOS and EOS are not among the separators: preprocessing adds them around each document.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from megatron_ipt.pairs.grammar import CONCLUSION, REASONING_CUE, Pair

TEXT_SEPARATOR = "\n\n"
"""Between the texts of a chain, and between a text and its pairs."""
BLOCK_SEPARATOR = "\n\n"
"""Between pairs, and between the sections of the numbered and the inline mode."""
LINE_SEPARATOR = "\n"
"""Between the turns of a dialogue, the entries of a numbered list, and the lines of one pair."""
LABELS = {
    "A": tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    "a": tuple("abcdefghijklmnopqrstuvwxyz"),
    "i": ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x"),
    "1": (),
}


@dataclass(frozen=True, kw_only=True)
class Template:
    """Common fields of templates.

    `lead` is written once before the pairs; `option` is the line of one option, `labels` the label of the first one.
    """

    name: str
    lead: str = ""
    option: str = "{label}. {option}"
    labels: str = "A"

    def label(self, index: int) -> str:
        """Return the label of the option at `index`, from 0; a number if there are no more labels of this kind."""
        labels = LABELS[self.labels]
        return labels[index] if index < len(labels) else str(index + 1)


@dataclass(frozen=True, kw_only=True)
class PairTemplate(Template):
    """A template of classic mode: `pair` is a question with its answer."""

    pair: str


@dataclass(frozen=True, kw_only=True)
class ModeTemplate(Template):
    """A template of another mode: question and answer are written separately.

    `between` separates two sections. `text` is the text as a turn, `text_last` the same after its pairs. `cue` asks for
    a chain of thought, `reasoned` is an answer with one.
    """

    question: str
    answer: str
    between: str = ""
    text: str = "{text}"
    text_last: str = "{text}"
    cue: str = REASONING_CUE
    reasoned: str = f"{{reasoning}}\n{CONCLUSION}{{answer}}"


@dataclass(frozen=True)
class PairFields:
    """The values of a template's placeholders; `options` are labeled lines, empty if there are no options."""

    question: str
    options: str
    reasoning: str
    answer: str


def pair_fields(pair: Pair, seed: str | None, template: Template) -> PairFields:
    """Return the fields of `pair`: the answer of a multiple-choice pair is the label of the right option.

    Args:
        pair: the pair to write.
        seed: the seed by which the options are shuffled; None keeps their order.
        template: gives the labels and the line of an option.
    """
    options = list(pair.options)
    if seed is not None:
        random.Random(seed).shuffle(options)
    answer = template.label(options.index(pair.conclusion)) if options else pair.conclusion
    lines = [template.option.format(label=template.label(index), option=one) for index, one in enumerate(options)]
    return PairFields(pair.stem, LINE_SEPARATOR.join(lines), pair.reasoning or "", answer)


@dataclass(frozen=True, kw_only=True)
class RephrasingTemplate:
    """A template of rephrasings: `frame` contains the rephrasing of a text."""

    name: str
    frame: str
