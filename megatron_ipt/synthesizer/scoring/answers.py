"""The answer at the beginning of what a synthesizer wrote."""

from __future__ import annotations

import re

from megatron_ipt.pairs.grammar import Pair

_TAGS = re.compile(r"<(?:/?CON|QUE|ANS|/END)>")


def read_answer(question: str, output: str) -> tuple[str, bool]:
    """Return the answer at the beginning of an output, without reasoning, and whether `</END>` ends it."""
    answer, tag = output, ""
    if found := _TAGS.search(output):
        answer, tag = output[: found.start()], found[0]
    return Pair(question, answer.strip()).conclusion, tag == "</END>"
