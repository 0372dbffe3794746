"""Prompts by true token counts: shown examples, the earlier texts of the chain, the text itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_ipt.corpus.rows import ObjectRow, read_objects
from megatron_ipt.errors import UserError
from megatron_ipt.synthesis.grammar import OPENING, Example, Pair, render_context, render_pairs
from megatron_ipt.synthesis.prompt_tokenizer import PromptTokenizer


@dataclass(frozen=True)
class Prompt:
    """Token ids that end where the synthesizer begins to write."""

    ids: list[int]
    text_was_cut: bool


def example_ids(tokenizer: PromptTokenizer, example: Example) -> tuple[list[int], list[int]]:
    """A text with BOS before it, and its pairs with EOS after them, as in tuning and in prompts."""
    context, pairs = tokenizer.encode_after(render_context(example.text), render_pairs(example.pairs))
    return [*tokenizer.bos_ids, *context], [*pairs, *tokenizer.eos_ids]


class PromptBuilder:
    """Builds prompts that leave `max_new_tokens` of the `max_model_len` tokens free.

    Examples and texts follow one another as in tuning, each between BOS and EOS where the model has them (arXiv
    2406.14491: one sequence holds several examples).
    """

    def __init__(
        self, tokenizer: PromptTokenizer, examples: Sequence[Example], max_model_len: int, max_new_tokens: int
    ) -> None:
        self._tokenizer = tokenizer
        self.opening = OPENING if examples else ""
        """What a model that is only shown the grammar is given as the beginning of its answer."""
        self._head = [token for example in examples for token in self.example_ids(example)]
        self._max_own = max_model_len - max_new_tokens - len(self._head)
        self._around_tokens = len(self._text_ids("")) + _SPARE_TOKENS
        if self.max_text_tokens < _LEAST_TEXT_TOKENS:
            raise UserError(
                "engine.max_model_len",
                max_model_len,
                f"the examples take {len(self._head)} tokens and the answer {max_new_tokens}: no room for a text",
                "raise it, show fewer examples, or lower engine.max_new_tokens",
            )

    @property
    def max_text_tokens(self) -> int:
        """The longest text that the synthesizer reads whole."""
        return self._max_own - self._around_tokens

    def example_ids(self, example: Example) -> list[int]:
        """A text with its pairs, as it stands before another text."""
        context, pairs = example_ids(self._tokenizer, example)
        return [*context, *pairs]

    def build(self, earlier: Sequence[Example], text: str) -> Prompt:
        """The prompt for `text`, after the `earlier` texts of its chain where all of them fit."""
        ids = self._text_ids(text)
        if len(ids) > self._max_own:
            return Prompt([*self._head, *self._text_ids(self._cut(text))], text_was_cut=True)
        chain = [token for example in earlier for token in self.example_ids(example)]
        if len(chain) + len(ids) > self._max_own:
            chain = []
        return Prompt([*self._head, *chain, *ids], text_was_cut=False)

    def build_scored(self, text: str | None, pair: Pair) -> tuple[list[int], list[int]]:
        """A prompt that ends with the question of `pair`, after `text` or without it, and the answer."""
        question = f"{OPENING} {pair.question} <ANS>"
        context = "" if text is None else render_context(self._cut(text))
        ids, answer = self._tokenizer.encode_after(context + question, f" {pair.answer} </END>")
        return [*self._head, *self._tokenizer.bos_ids, *ids], answer

    def _text_ids(self, text: str) -> list[int]:
        context, opening = self._tokenizer.encode_after(render_context(text), self.opening)
        return [*self._tokenizer.bos_ids, *context, *opening]

    def _cut(self, text: str) -> str:
        """What of the text fits the window."""
        room = self.max_text_tokens
        while True:  # broken-up tags take more tokens than whole ones
            beginning = self._tokenizer.cut(text, room)
            tokens = len(self._text_ids(beginning))
            if tokens <= self._max_own:
                return beginning
            room -= tokens - self._max_own


_LEAST_TEXT_TOKENS = 32
_SPARE_TOKENS = 8  # a text within its tags may take a few tokens more than alone


def read_examples(file: Path | None) -> list[Example]:
    """Return the examples to show: JSONL of `{"context": ..., "pairs": [{"Q": ..., "A": ...}, ...]}`.

    Raises:
        UserError: there is no such file, or, at FILE:LINE, a row has another form.
    """
    if file is None:
        return []
    if not file.is_file():
        raise UserError("examples", file, "no such file", "give an existing JSONL file")
    return [_example(row) for row in read_objects([file])]


def _example(row: ObjectRow) -> Example:
    try:
        pairs = tuple(Pair(pair["Q"], pair["A"]) for pair in row.values["pairs"])
        return Example(row.values["context"], pairs)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{row.file}:{row.line}",
            ", ".join(row.values),
            f"not an example ({error})",
            'write {"context": TEXT, "pairs": [{"Q": QUESTION, "A": ANSWER}]}',
        ) from error
