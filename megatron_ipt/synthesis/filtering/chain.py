"""The gates that check one pair at a time, in a fixed order, cheap ones first."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from megatron_ipt.config.synthesis import CUSTOM_GATES, GatesConfig
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.pairs.grammar import Pair
from megatron_ipt.pairs.words import find_repeated_share, split_words
from megatron_ipt.synthesis.filtering.grounding import find_grounded_share
from megatron_ipt.synthesis.filtering.language import is_written_in, known_languages
from megatron_ipt.synthesis.records import TextRecord


class _Candidate(NamedTuple):
    text: str
    text_words: Collection[str]
    pair: Pair
    answer_gain: float | None


CustomGate = Callable[[str, Pair], str | None]
"""Takes a text and a pair about it; returns the reason to drop the pair, or None. Must be deterministic."""
_Gate = tuple[str, Callable[[_Candidate], bool]]


class PairGates:
    """The gates that are enabled. Near-duplicates across the corpus are found by `near_duplicates`."""

    def __init__(self, config: GatesConfig) -> None:
        """Build the enabled gates.

        Raises:
            UserError: lists every problem of the bounds.
        """
        if problems := find_gate_problems(config):
            raise UserError.of(problems)
        self._needs_text_words = config.min_grounded_share is not None
        self._gates = _build_gates(config)
        self._custom: list[CustomGate] = [CUSTOM_GATES.load(name) for name in config.custom]

    def reason(self, text: str, pair: Pair, answer_gain: float | None) -> str | None:
        """Return the reason of the first gate that rejects `pair`; None if all accept it.

        Args:
            text: the text that the pair is about.
            pair: the pair.
            answer_gain: nats per answer token; required if `min_answer_gain` is set.
        """
        return self._reason(_Candidate(text, self._words_of(text), pair, answer_gain))

    def filter(self, record: TextRecord) -> TextRecord:
        """Return the record with the pairs that pass; the others are added to its dropped pairs."""
        words = self._words_of(record.text)
        gains: tuple[float | None, ...] = record.answer_gains or (None,) * len(record.pairs)
        kept = record
        for pair, gain in zip(record.pairs, gains, strict=True):
            if (reason := self._reason(_Candidate(record.text, words, pair, gain))) is not None:
                kept = kept.drop(pair, reason)
        return kept

    def _words_of(self, text: str) -> Collection[str]:
        return frozenset(split_words(text)) if self._needs_text_words else ()

    def _reason(self, candidate: _Candidate) -> str | None:
        for reason, refuses in self._gates:
            if refuses(candidate):
                return reason
        reasons = (gate(candidate.text, candidate.pair) for gate in self._custom)
        return next((reason for reason in reasons if reason is not None), None)


def find_gate_problems(config: GatesConfig) -> list[Problem]:
    """Find problems of the bounds."""
    problems = []
    low, high = config.min_question_words, config.max_question_words
    if low is not None and high is not None and low > high:
        problems.append(Problem("gates.min_question_words", low, f"above max_question_words={high}", "lower it"))
    if config.languages is not None:
        problems += _find_language_problems(config.languages)
    return problems + CUSTOM_GATES.find_problems("gates.custom", config.custom)


def _find_language_problems(languages: list[str]) -> list[Problem]:
    known = known_languages()
    remedy = f"one of {' '.join(sorted(known))}"
    return [
        Problem("gates.languages", code, "not the code of a known language", remedy)
        for code in languages
        if code not in known
    ]


def _build_gates(config: GatesConfig) -> list[_Gate]:
    # the names are the drop reasons in the corpus's files: to reword one changes their bytes
    gates: list[_Gate] = []
    if (min_words := config.min_question_words) is not None:
        gates.append(("question too short", lambda candidate: len(candidate.pair.stem.split()) < min_words))
    if (max_words := config.max_question_words) is not None:
        gates.append(("question too long", lambda candidate: len(candidate.pair.stem.split()) > max_words))
    if (max_answer := config.max_answer_words) is not None:
        gates.append(("answer too long", lambda candidate: len(candidate.pair.answer.split()) > max_answer))
    if (max_repeated := config.max_repeated_share) is not None:
        gates.append(("repetitive", lambda candidate: _repeats(candidate.pair, max_repeated)))
    if (min_grounded := config.min_grounded_share) is not None:
        gates.append(("answer not grounded", lambda candidate: _is_ungrounded(candidate, min_grounded)))
    if (min_gain := config.min_answer_gain) is not None:
        gates.append(("answer not gained from the text", lambda candidate: _gains_less(candidate, min_gain)))
    if (languages := config.languages) is not None:
        gates.append(("other language", lambda candidate: not is_written_in(candidate.pair, languages)))
    return gates


def _repeats(pair: Pair, max_share: float) -> bool:
    return max(find_repeated_share(pair.stem), find_repeated_share(pair.answer)) > max_share


def _is_ungrounded(candidate: _Candidate, min_share: float) -> bool:
    share = find_grounded_share(candidate.pair, candidate.text_words)
    return share is not None and share < min_share


def _gains_less(candidate: _Candidate, min_gain: float) -> bool:
    assert candidate.answer_gain is not None
    return candidate.answer_gain < min_gain
