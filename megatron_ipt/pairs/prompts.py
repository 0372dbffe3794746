"""Prompts with exact token counts: few-shot examples, the earlier texts of the chain, the text itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_ipt.corpus.rows import ObjectRow, read_objects
from megatron_ipt.errors import UserError
from megatron_ipt.lm.prompt_tokenizer import PromptTokenizer
from megatron_ipt.pairs.grammar import QUESTION_TAG, Example, Pair, render_context, render_pairs


@dataclass(frozen=True)
class Prompt:
    """Token ids up to the point where the synthesizer begins to write."""

    ids: list[int]
    text_was_cut: bool


def example_ids(tokenizer: PromptTokenizer, example: Example) -> tuple[list[int], list[int]]:
    """Encode a text after BOS, and its pairs followed by EOS, as in tuning and in prompts."""
    context, pairs = tokenizer.encode_after(render_context(example.text), render_pairs(example.pairs))
    return [*tokenizer.bos_ids, *context], [*pairs, *tokenizer.eos_ids]


class PromptBuilder:
    """Builds prompts that leave `max_new_tokens` of the `max_model_len` tokens free.

    Examples and texts follow one another as in tuning, each between BOS and EOS if the model has them (arXiv
    2406.14491: one sequence holds several examples).
    """

    def __init__(
        self, tokenizer: PromptTokenizer, examples: Sequence[Example], max_model_len: int, max_new_tokens: int
    ) -> None:
        """Encode the examples.

        Args:
            tokenizer: the tokenizer of the model.
            examples: shown before every text; none for a model that was tuned on the grammar.
            max_model_len: the context window, in tokens.
            max_new_tokens: the tokens of it that are reserved for the answer.

        Raises:
            UserError: the examples and the answer leave fewer than 32 tokens for a text.
        """
        self._tokenizer = tokenizer
        self.opening = QUESTION_TAG if examples else ""
        """The beginning of the answer, given to a model that knows the grammar from examples only."""
        self._example_prefix = [token for example in examples for token in self.example_ids(example)]
        self._available_tokens = max_model_len - max_new_tokens - len(self._example_prefix)
        self._tag_tokens = len(self._text_ids("")) + _SPARE_TOKENS
        if self.max_text_tokens < _MIN_TEXT_TOKENS:
            raise UserError(
                "engine.max_model_len",
                max_model_len,
                f"no room for a text: examples of {len(self._example_prefix)} and an answer of {max_new_tokens} tokens",
                "raise it, give fewer examples, or lower engine.max_new_tokens",
            )

    @property
    def max_text_tokens(self) -> int:
        """The length of the longest text that is not cut."""
        return self._available_tokens - self._tag_tokens

    def example_ids(self, example: Example) -> list[int]:
        """Encode a text with its pairs as it appears before another text."""
        context, pairs = example_ids(self._tokenizer, example)
        return [*context, *pairs]

    def build(self, earlier: Sequence[Example], text: str) -> Prompt:
        """Build the prompt for `text`, after the `earlier` texts of its chain if all of them fit."""
        ids = self._text_ids(text)
        if len(ids) > self._available_tokens:
            return Prompt([*self._example_prefix, *self._text_ids(self._cut(text))], text_was_cut=True)
        chain = [token for example in earlier for token in self.example_ids(example)]
        if len(chain) + len(ids) > self._available_tokens:
            chain = []
        return Prompt([*self._example_prefix, *chain, *ids], text_was_cut=False)

    def build_scored(self, text: str | None, pair: Pair) -> tuple[list[int], list[int]]:
        """Build a prompt that ends with the question of `pair`, after `text` or without it, and encode the answer."""
        question = f"{QUESTION_TAG} {pair.question} <ANS>"
        context = "" if text is None else render_context(self._cut(text))
        ids, answer = self._tokenizer.encode_after(context + question, f" {pair.answer} </END>")
        return [*self._example_prefix, *self._tokenizer.bos_ids, *ids], answer

    def _text_ids(self, text: str) -> list[int]:
        context, opening = self._tokenizer.encode_after(render_context(text), self.opening)
        return [*self._tokenizer.bos_ids, *context, *opening]

    def _cut(self, text: str) -> str:
        """Return the longest beginning of the text that fits the context window."""
        room = self.max_text_tokens
        while True:  # escaped tags take more tokens than the text has alone, so the first cut may be too long
            beginning = self._tokenizer.cut(text, room)
            tokens = len(self._text_ids(beginning))
            if tokens <= self._available_tokens:
                return beginning
            room -= tokens - self._available_tokens


_MIN_TEXT_TOKENS = 32
_SPARE_TOKENS = 8  # a text between its tags may take a few tokens more than alone


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
