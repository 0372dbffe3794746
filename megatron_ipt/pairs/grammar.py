"""The synthesizer's grammar: ` <CON> {text} </CON>\\n\\n<QUE> {question} <ANS> {answer} </END>\\n\\n<QUE> ...`.

The tags are plain text, and the space before `<CON>` is part of the format (arXiv 2406.14491, released code). A
multiple-choice question ends with `Options:` and a line `- ...` per option; one that asks for a chain of thought ends
with a cue, and its answer with a conclusion.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

QUESTION_TAG = "<QUE>"
_TAG = re.compile(r"<(/?(?:CON|QUE|ANS|END))>")
REASONING_CUE = "Let's think step by step."
CONCLUSION = "Therefore, the answer is "
_OPTIONS = re.compile(r"\nOptions:\n((?:- .*(?:\n|$))+)$")


@dataclass(frozen=True)
class Pair:
    """One instruction-response pair; the question of a multiple-choice pair includes its options."""

    question: str
    answer: str

    @property
    def options(self) -> tuple[str, ...]:
        """The options of a multiple-choice question; empty for a free-form one."""
        found = _OPTIONS.search(self._question_without_cue)
        return tuple(line[2:].strip() for line in found[1].splitlines()) if found else ()

    @property
    def stem(self) -> str:
        """The question without its options and without the cue for a chain of thought."""
        return _OPTIONS.sub("", self._question_without_cue).strip()

    @property
    def reasoning(self) -> str | None:
        """The chain of thought before the conclusion; None if the question asks for none, or the answer has none."""
        if not self.question.endswith(REASONING_CUE) or CONCLUSION not in self.answer:
            return None
        return self.answer.rpartition(CONCLUSION)[0].strip()

    @property
    def conclusion(self) -> str:
        """The final answer, without the chain of thought."""
        return self.answer if self.reasoning is None else self.answer.rpartition(CONCLUSION)[2].strip()

    @property
    def _question_without_cue(self) -> str:
        return self.question.removesuffix(REASONING_CUE).rstrip()


def compose_pair(question: str, answer: str, options: Sequence[str] = (), reasoning: str | None = None) -> Pair:
    """Compose a pair in one of four formats: free-form or multiple choice, each with or without a chain of thought."""
    lines = [question, *(["Options:", *(f"- {option}" for option in options)] if options else [])]
    if reasoning is None:
        return Pair("\n".join(lines), answer)
    return Pair("\n".join([*lines, REASONING_CUE]), f"{reasoning}\n{CONCLUSION}{answer}")


@dataclass(frozen=True)
class Example:
    """A text with its pairs."""

    text: str
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class ParsedOutput:
    """The valid pairs of one output, and the number of dropped pieces by reason."""

    pairs: tuple[Pair, ...]
    drops: Counter[str]


def render_context(text: str) -> str:
    """Render the text as the synthesizer reads it; tags in the text are escaped, so that they have no effect."""
    return f" <CON> {escape_tags(text)} </CON>\n\n"


def escape_tags(text: str) -> str:
    """Return `text` with `<QUE>` as `< QUE >`, and so on for each tag."""
    return _TAG.sub(r"< \1 >", text)


def render_pairs(pairs: Iterable[Pair]) -> str:
    """Render the pairs as the synthesizer writes them."""
    return "\n\n".join(f"<QUE> {pair.question} <ANS> {pair.answer} </END>" for pair in pairs)


def parse_pairs(output: str) -> ParsedOutput:
    """Parse the output of the synthesizer after a context into pairs.

    Dropped, and counted by reason, are: an unfinished tail, a piece that does not begin with `<QUE>` or does not have
    exactly one `<ANS>`, an empty question or answer, a repeated question (ignoring case), an answer that is not one of
    its options. Anything after an opening `<CON>` belongs to another text and is ignored.
    """
    own, _, _ = output.partition("<CON>")
    *pieces, tail = own.split("</END>")
    drops: Counter[str] = Counter()
    if tail.strip():
        drops["unfinished"] += 1
    pairs: dict[str, Pair] = {}
    for piece in pieces:
        pair, reason = _parse_piece(piece.strip())
        if pair is not None and pair.question.casefold() in pairs:
            pair, reason = None, "repeated question"
        if pair is None:
            drops[reason] += 1
        else:
            pairs[pair.question.casefold()] = pair
    return ParsedOutput(tuple(pairs.values()), drops)


def _parse_piece(piece: str) -> tuple[Pair | None, str]:
    tags = _TAG.findall(piece)
    if not piece.startswith("<QUE>") or tags.count("QUE") != 1:
        return None, "not one <QUE> at the start"
    if tags.count("ANS") != 1:
        return None, "not exactly one <ANS>"
    if len(tags) > 2:
        return None, "stray tag"
    question, answer = (part.strip() for part in piece.removeprefix("<QUE>").split("<ANS>"))
    pair = Pair(question, answer)
    if not pair.stem:
        return None, "empty question"
    if not answer:
        return None, "empty answer"
    if pair.options and pair.conclusion not in pair.options:
        return None, "answer not among its options"
    return pair, ""
