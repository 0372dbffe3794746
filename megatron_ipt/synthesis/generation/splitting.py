"""Splits texts that are too long for the context window into pieces that end with a paragraph or a sentence."""

from __future__ import annotations

import re
from bisect import bisect_right

from megatron_ipt.lm.prompt_tokenizer import PromptTokenizer

_ENDS = (re.compile(r"\n\s*\n"), re.compile(r"(?<=[.!?。！？])[\"'”’)\]]*\s+|\n"), re.compile(r"\s+"))
_SPARE_TOKENS = 8  # a piece alone may take a few tokens more than within its text


def split_text(text: str, max_tokens: int, tokenizer: PromptTokenizer) -> list[str]:
    """Split `text` into pieces of at most `max_tokens` tokens, which joined give `text`; one piece if it fits.

    A piece ends after the last paragraph in the second half of what fits, else after its last sentence, else after its
    last word.
    """
    if len(text) <= max_tokens:  # cheap: a token covers at least one character
        return [text]
    token_ends = [end for _, end in tokenizer.offsets(text)]
    if len(token_ends) <= max_tokens:
        return [text]
    boundaries = [[match.end() for match in pattern.finditer(text)] for pattern in _ENDS]
    pieces: list[str] = []
    start = first_token = 0
    while len(token_ends) - first_token > max_tokens:
        limit = token_ends[first_token + max(max_tokens - _SPARE_TOKENS, 1) - 1]
        end = _piece_end(boundaries, (start + limit) // 2, limit)
        pieces.append(text[start:end])
        start, first_token = end, bisect_right(token_ends, end)
    return [*pieces, text[start:]] if text[start:] else pieces


def _piece_end(boundaries: list[list[int]], earliest: int, limit: int) -> int:
    for ends in boundaries:
        found = bisect_right(ends, limit)
        if found and ends[found - 1] > earliest:
            return ends[found - 1]
    return limit
