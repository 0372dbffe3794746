"""What the synthesis asks of a language model, whichever engine runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Generation:
    """What was written after one prompt, without the end-of-sequence token, and how many tokens that took."""

    text: str
    tokens: int


class Engine(Protocol):
    """A language model behind token ids: prompts are ids, so that nothing adds a second BOS."""

    bos_ids: list[int]
    """BOS as a list: one id, or none where the model has none."""
    eos_ids: list[int]
    """EOS, likewise."""

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without special tokens."""

    def cut(self, text: str, max_tokens: int) -> str:
        """The beginning of `text` that takes at most `max_tokens` tokens, ending with a whole word."""

    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[Generation]:
        """Greedy continuation of each prompt, in order."""
