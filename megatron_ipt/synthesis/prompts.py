"""Prompts by true token counts: shown examples, the earlier texts of the chain, the text itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from megatron_ipt.errors import UserError
from megatron_ipt.synthesis.engine import Engine
from megatron_ipt.synthesis.grammar import OPENING, Example, Pair, render_context, render_pairs


@dataclass(frozen=True)
class Prompt:
    """Token ids that end where the synthesizer begins to write."""

    ids: list[int]
    text_was_cut: bool


class PromptBuilder:
    """Builds prompts that leave `max_new_tokens` of the `max_model_len` tokens free.

    Examples and texts follow one another as in tuning, each between BOS and EOS where the model has them (arXiv
    2406.14491: one sequence holds several examples).
    """

    def __init__(self, engine: Engine, examples: Sequence[Example], max_model_len: int, max_new_tokens: int) -> None:
        self._engine = engine
        self.opening = OPENING if examples else ""
        """What a model that is only shown the grammar is given as the beginning of its answer."""
        self._head = [token for example in examples for token in self.example_ids(example)]
        self._max_prompt = max_model_len - max_new_tokens
        if len(self._head) + _LEAST_TEXT_TOKENS > self._max_prompt:
            raise UserError(
                "engine.max_model_len",
                max_model_len,
                f"the examples take {len(self._head)} tokens and the answer {max_new_tokens}: no room for a text",
                "raise it, show fewer examples, or lower engine.max_new_tokens",
            )

    def example_ids(self, example: Example) -> list[int]:
        """A text with its pairs, as it stands before another text."""
        engine = self._engine
        ids = engine.encode(render_context(example.text) + render_pairs(example.pairs))
        return [*engine.bos_ids, *ids, *engine.eos_ids]

    def build(self, earlier: Sequence[Example], text: str) -> Prompt:
        """The prompt for `text`, after those `earlier` texts that gave pairs, as long as all of them fit."""
        engine = self._engine
        ids = [*engine.bos_ids, *engine.encode(render_context(text) + self.opening)]
        chain = [token for example in earlier if example.pairs for token in self.example_ids(example)]
        if len(self._head) + len(chain) + len(ids) <= self._max_prompt:
            return Prompt([*self._head, *chain, *ids], text_was_cut=False)
        if len(self._head) + len(ids) <= self._max_prompt:
            return Prompt([*self._head, *ids], text_was_cut=False)
        room = self._max_prompt - len(self._head) - (len(ids) - len(engine.encode(text)))
        while True:  # token counts of a part and of the whole may differ by a few
            ids = [*engine.bos_ids, *engine.encode(render_context(engine.cut(text, room)) + self.opening)]
            if len(self._head) + len(ids) <= self._max_prompt:
                return Prompt([*self._head, *ids], text_was_cut=True)
            room -= len(self._head) + len(ids) - self._max_prompt


_LEAST_TEXT_TOKENS = 32


def read_examples(file: Path | None) -> list[Example]:
    """The shown examples: JSONL of `{"context": ..., "pairs": [{"Q": ..., "A": ...}, ...]}`.

    Raises:
        UserError: at FILE:LINE for a row of another form.
    """
    if file is None:
        return []
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise UserError("examples", file, error.strerror or str(error), "give an existing JSONL file") from error
    return [_example(file, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _example(file: Path, number: int, line: bytes) -> Example:
    try:
        row = orjson.loads(line)
        return Example(row["context"], tuple(Pair(pair["Q"], pair["A"]) for pair in row["pairs"]))
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"{file}:{number}",
            line[:60].decode(errors="replace"),
            f"not an example ({error})",
            'write {"context": TEXT, "pairs": [{"Q": QUESTION, "A": ANSWER}]}',
        ) from error
