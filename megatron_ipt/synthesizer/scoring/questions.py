"""Prompts that end where the answer to a given question begins."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_ipt.lm.prompt_tokenizer import PromptTokenizer
from megatron_ipt.pairs.grammar import QUESTION_TAG, Example, render_context
from megatron_ipt.pairs.prompts import Prompt, example_ids

_MIN_TEXT_TOKENS = 32


class QuestionPrompts:
    """Builds prompts as in tuning, examples first, that leave `max_answer_tokens` of `max_model_len` free."""

    def __init__(
        self, tokenizer: PromptTokenizer, examples: Sequence[Example], max_model_len: int, max_answer_tokens: int
    ) -> None:
        self._tokenizer = tokenizer
        self._head = [token for example in examples for part in example_ids(tokenizer, example) for token in part]
        self._max_own = max_model_len - max_answer_tokens - len(self._head)

    def build(self, text: str, question: str) -> Prompt | None:
        """Build the prompt, with only the beginning of a text that is too long; None if too little of it fits."""
        ids, room = self._own_ids(text, question), len(self._tokenizer.offsets(text))
        cut = False
        while len(ids) > self._max_own:
            cut, room = True, room - (len(ids) - self._max_own)
            if room < _MIN_TEXT_TOKENS:
                return None
            ids = self._own_ids(self._tokenizer.cut(text, room), question)
        return Prompt([*self._head, *ids], cut)

    def _own_ids(self, text: str, question: str) -> list[int]:
        context, asked = self._tokenizer.encode_after(render_context(text), f"{QUESTION_TAG} {question} <ANS>")
        return [*self._tokenizer.bos_ids, *context, *asked]
