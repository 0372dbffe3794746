"""One model on the held-out sets: its answers to their questions, and the pairs that it writes itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megatron_ipt.config.scoring import ScoreConfig
from megatron_ipt.lm.engine import Completion, LMEngine
from megatron_ipt.lm.loading import TokenizerLoader, load_tokenizer_of
from megatron_ipt.pairs.answer_match import find_f1, is_exact
from megatron_ipt.pairs.grammar import Pair, parse_pairs
from megatron_ipt.pairs.prompts import Prompt, PromptBuilder, read_examples
from megatron_ipt.pairs.words import split_words
from megatron_ipt.synthesis.filtering.grounding import find_grounded_share
from megatron_ipt.synthesizer.scoring.answers import read_answer
from megatron_ipt.synthesizer.scoring.asking import ask
from megatron_ipt.synthesizer.scoring.heldout import HeldOut
from megatron_ipt.synthesizer.scoring.questions import QuestionPrompts
from megatron_ipt.synthesizer.scoring.rows import AnswerRow, PairsRow


class ModelRun:
    """Prompts one model, with its own tokenizer, examples and context window."""

    def __init__(self, name: str, config: ScoreConfig, load_tokenizer: TokenizerLoader) -> None:
        """Load the tokenizer and the examples.

        Raises:
            UserError: the tokenizer or the examples cannot be read, or the examples leave no room in the window.
        """
        chosen = config.models[name]
        self.tokenizer = load_tokenizer_of(chosen.engine, load_tokenizer)
        examples = read_examples(Path(chosen.examples) if chosen.examples else None)
        window = chosen.engine.max_model_len
        self._name, self._max_answer_tokens = name, config.max_answer_tokens
        self._max_new_tokens = chosen.engine.max_new_tokens
        self._max_refused_share = chosen.engine.endpoint.max_refused_share
        self._builder = PromptBuilder(self.tokenizer, examples, window, chosen.engine.max_new_tokens)
        self._questions = QuestionPrompts(self.tokenizer, examples, window, config.max_answer_tokens)

    def answer(self, engine: LMEngine, contexts: Sequence[HeldOut]) -> list[AnswerRow]:
        """Answer every question; return a row for each."""
        asked = [
            (one, pair, self._questions.build(one.context, pair.question)) for one in contexts for pair in one.pairs
        ]
        ids = [prompt.ids for _, _, prompt in asked if prompt is not None]
        answers = iter(self._ask(engine, ids, self._max_answer_tokens, "answers"))
        return [
            _answer_row(one, pair, prompt, None if prompt is None else next(answers)) for one, pair, prompt in asked
        ]

    def write_pairs(self, engine: LMEngine, contexts: Sequence[HeldOut]) -> list[PairsRow]:
        """Write pairs about every context, prompted as in synthesis; return a row for each."""
        prompts = [self._builder.build([], one.context) for one in contexts]
        written = self._ask(engine, [prompt.ids for prompt in prompts], self._max_new_tokens, "pairs")
        return [
            _pairs_row(one, prompt, completion, self._builder.opening)
            for one, prompt, completion in zip(contexts, prompts, written, strict=True)
        ]

    def _ask(self, engine: LMEngine, ids: Sequence[Sequence[int]], max_tokens: int, what: str) -> list[Completion]:
        return ask(engine, ids, max_tokens, f"{self._name}: {what}", self._max_refused_share)


def _answer_row(one: HeldOut, pair: Pair, prompt: Prompt | None, completion: Completion | None) -> AnswerRow:
    if prompt is None or completion is None:
        return AnswerRow(one.id, one.set, pair.question, pair.conclusion, trouble="it does not fit into the window")
    answer, finished = read_answer(pair.question, completion.text)
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
        completion.tokens,
        completion.failure.reason if completion.failure else None,
    )


def _pairs_row(one: HeldOut, prompt: Prompt, completion: Completion, opening: str) -> PairsRow:
    parsed = parse_pairs(opening + completion.text)
    words = frozenset(split_words(one.context))
    return PairsRow(
        one.id,
        one.set,
        [{"Q": pair.question, "A": pair.answer} for pair in parsed.pairs],
        [find_grounded_share(pair, words) for pair in parsed.pairs],
        dict(parsed.drops) if completion.failure is None else {completion.failure.drop_reason: 1},
        prompt.text_was_cut,
        completion.tokens,
    )
