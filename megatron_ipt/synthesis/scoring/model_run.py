"""One model before the held-out sets: its answers to their questions, and the pairs it writes itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_ipt.synthesis.engine import Engine, Generation
from megatron_ipt.synthesis.grammar import Example, Pair, parse_pairs
from megatron_ipt.synthesis.prompt_tokenizer import PromptTokenizer
from megatron_ipt.synthesis.prompts import Prompt, PromptBuilder
from megatron_ipt.synthesis.quality.grounding import find_grounded_share, split_words
from megatron_ipt.synthesis.scoring.answers import find_f1, is_exact, read_answer
from megatron_ipt.synthesis.scoring.asking import ask
from megatron_ipt.synthesis.scoring.heldout import HeldOut
from megatron_ipt.synthesis.scoring.questions import QuestionPrompts
from megatron_ipt.synthesis.scoring.rows import AnswerRow, PairsRow


@dataclass(frozen=True)
class ModelRun:
    """A model by `name` with the examples it is shown; tokens of the window, of an answer, of a text's pairs."""

    name: str
    engine: Engine
    tokenizer: PromptTokenizer
    examples: Sequence[Example]
    max_model_len: int
    max_answer_tokens: int
    max_new_tokens: int

    def answer(self, contexts: Sequence[HeldOut]) -> list[AnswerRow]:
        """A row for each question."""
        prompts = QuestionPrompts(self.tokenizer, self.examples, self.max_model_len, self.max_answer_tokens)
        asked = [(one, pair, prompts.build(one.context, pair.question)) for one in contexts for pair in one.pairs]
        ids = [prompt.ids for _, _, prompt in asked if prompt is not None]
        answers = iter(ask(self.engine, ids, self.max_answer_tokens, f"{self.name}: answers"))
        return [
            _answer_row(one, pair, prompt, None if prompt is None else next(answers)) for one, pair, prompt in asked
        ]

    def write_pairs(self, contexts: Sequence[HeldOut]) -> list[PairsRow]:
        """A row for each context, prompted as in synthesis."""
        builder = PromptBuilder(self.tokenizer, self.examples, self.max_model_len, self.max_new_tokens)
        prompts = [builder.build([], one.context) for one in contexts]
        written = ask(self.engine, [prompt.ids for prompt in prompts], self.max_new_tokens, f"{self.name}: pairs")
        return [
            _pairs_row(one, prompt, generation, builder.opening)
            for one, prompt, generation in zip(contexts, prompts, written, strict=True)
        ]


def _answer_row(one: HeldOut, pair: Pair, prompt: Prompt | None, generation: Generation | None) -> AnswerRow:
    if prompt is None or generation is None:
        return AnswerRow(one.id, one.set, pair.question, pair.conclusion, trouble="the window has no room for it")
    answer, finished = read_answer(pair.question, generation.text)
    return AnswerRow(
        one.id,
        one.set,
        pair.question,
        pair.conclusion,
        answer,
        find_f1(answer, pair.conclusion),
        is_exact(answer, pair.conclusion),
        finished,
        prompt.text_was_cut,
        generation.tokens,
        generation.failure,
    )


def _pairs_row(one: HeldOut, prompt: Prompt, generation: Generation, opening: str) -> PairsRow:
    parsed = parse_pairs(opening + generation.text)
    words = frozenset(split_words(one.context))
    return PairsRow(
        one.id,
        one.set,
        [{"Q": pair.question, "A": pair.answer} for pair in parsed.pairs],
        [find_grounded_share(pair, words) for pair in parsed.pairs],
        dict(parsed.drops) if generation.failure is None else {"refused by the engine": 1},
        prompt.text_was_cut,
        generation.tokens,
    )
