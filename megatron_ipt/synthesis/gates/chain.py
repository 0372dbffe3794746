"""The gates that look at one pair at a time, in a fixed order, cheap ones first."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from megatron_ipt.config.synthesis import GatesConfig
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.synthesis.gates.grounding import find_grounded_share
from megatron_ipt.synthesis.gates.language import is_written_in, known_languages
from megatron_ipt.synthesis.gates.repetition import find_repeated_share
from megatron_ipt.synthesis.gates.words import split_words
from megatron_ipt.synthesis.grammar import Pair
from megatron_ipt.synthesis.records import TextRecord


class _Asked(NamedTuple):
    text_words: Collection[str]
    pair: Pair
    answer_gain: float | None


_Gate = tuple[str, Callable[[_Asked], bool]]


class PairGates:
    """The gates that are switched on. Near-duplicates across the corpus are found by `near_duplicates`."""

    def __init__(self, config: GatesConfig) -> None:
        """Raises UserError with all that is wrong with the bounds."""
        if problems := find_gate_problems(config):
            raise UserError.of(problems)
        self._needs_text_words = config.min_grounded_share is not None
        self._gates = _build_gates(config)

    def reason(self, text: str, pair: Pair, answer_gain: float | None) -> str | None:
        """Why the first gate that refuses `pair` does so; None where all let it pass.

        `answer_gain` is nats per answer token, needed where `min_answer_gain` is set.
        """
        return self._reason(_Asked(self._words_of(text), pair, answer_gain))

    def filter(self, record: TextRecord) -> TextRecord:
        """The record with the pairs that pass; the others are among its dropped ones."""
        words = self._words_of(record.text)
        gains: tuple[float | None, ...] = record.answer_gains or (None,) * len(record.pairs)
        kept = record
        for pair, gain in zip(record.pairs, gains, strict=True):
            if (reason := self._reason(_Asked(words, pair, gain))) is not None:
                kept = kept.drop(pair, reason)
        return kept

    def _words_of(self, text: str) -> Collection[str]:
        return frozenset(split_words(text)) if self._needs_text_words else ()

    def _reason(self, asked: _Asked) -> str | None:
        return next((reason for reason, refuses in self._gates if refuses(asked)), None)


def find_gate_problems(config: GatesConfig) -> list[Problem]:
    """What is wrong with the bounds."""
    problems = []
    low, high = config.min_question_words, config.max_question_words
    if low is not None and high is not None and low > high:
        problems.append(Problem("gates.min_question_words", low, f"above max_question_words={high}", "lower it"))
    if config.languages is not None:
        problems += _find_language_problems(config.languages)
    return problems


def _find_language_problems(languages: list[str]) -> list[Problem]:
    known = known_languages()
    remedy = f"one of {' '.join(sorted(known))}"
    return [
        Problem("gates.languages", code, "not the code of a language that can be told", remedy)
        for code in languages
        if code not in known
    ]


def _build_gates(config: GatesConfig) -> list[_Gate]:
    gates: list[_Gate] = []
    if (least_words := config.min_question_words) is not None:
        gates.append(("question too short", lambda asked: len(asked.pair.stem.split()) < least_words))
    if (most_words := config.max_question_words) is not None:
        gates.append(("question too long", lambda asked: len(asked.pair.stem.split()) > most_words))
    if (most_answer := config.max_answer_words) is not None:
        gates.append(("answer too long", lambda asked: len(asked.pair.answer.split()) > most_answer))
    if (most_repeated := config.max_repeated_share) is not None:
        gates.append(("repetitive", lambda asked: _repeats(asked.pair, most_repeated)))
    if (least_grounded := config.min_grounded_share) is not None:
        gates.append(("answer not grounded", lambda asked: _is_ungrounded(asked, least_grounded)))
    if (least_gain := config.min_answer_gain) is not None:
        gates.append(("answer not gained from the text", lambda asked: _gains_less(asked, least_gain)))
    if (languages := config.languages) is not None:
        gates.append(("other language", lambda asked: not is_written_in(asked.pair, languages)))
    return gates


def _repeats(pair: Pair, most: float) -> bool:
    return max(find_repeated_share(pair.stem), find_repeated_share(pair.answer)) > most


def _is_ungrounded(asked: _Asked, least: float) -> bool:
    share = find_grounded_share(asked.pair, asked.text_words)
    return share is not None and share < least


def _gains_less(asked: _Asked, least: float) -> bool:
    assert asked.answer_gain is not None
    return asked.answer_gain < least
