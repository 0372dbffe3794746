"""What an entry of the bank of templates holds."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.synthesis.grammar import CONCLUSION, REASONING_CUE

LABELS = {
    "A": tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    "a": tuple("abcdefghijklmnopqrstuvwxyz"),
    "i": ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x"),
    "1": (),
}


@dataclass(frozen=True, kw_only=True)
class Template:
    """`lead` stands once before the pairs; `option` is the line of one option, `labels` the label of the first."""

    name: str
    lead: str = ""
    option: str = "{label}. {option}"
    labels: str = "A"

    def label(self, place: int) -> str:
        """The label of the option at `place`, from 0; a number where the kind of labels has no more."""
        labels = LABELS[self.labels]
        return labels[place] if place < len(labels) else str(place + 1)


@dataclass(frozen=True, kw_only=True)
class PairTemplate(Template):
    """Classic mode: `pair` is a question with its answer."""

    pair: str


@dataclass(frozen=True, kw_only=True)
class ModeTemplate(Template):
    """The other modes: a question and an answer, said apart.

    `between` parts two sections. `text` is the text as a turn, `text_last` the same after its pairs. `cue` asks for a
    chain of thought, `reasoned` is an answer with one.
    """

    question: str
    answer: str
    between: str = ""
    text: str = "{text}"
    text_last: str = "{text}"
    cue: str = REASONING_CUE
    reasoned: str = f"{{reasoning}}\n{CONCLUSION}{{answer}}"


@dataclass(frozen=True, kw_only=True)
class RephrasingTemplate:
    """`frame` holds the rephrasing of a text."""

    name: str
    frame: str
