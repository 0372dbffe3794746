"""The grammar: rendered pairs are parsed back, and each fault in an output is counted."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_ipt.pairs.formats import format_of
from megatron_ipt.pairs.grammar import (
    CONCLUSION,
    REASONING_CUE,
    Pair,
    compose_pair,
    parse_pairs,
    render_context,
    render_pairs,
)

_TAG = re.compile(r"<(/?(?:CON|QUE|ANS|END))>")
WORDS = st.text(min_size=1, max_size=60).map(str.strip).filter(lambda text: text and not _TAG.search(text))


def is_plain(pair: Pair) -> bool:
    return not pair.options


@given(st.lists(st.builds(Pair, WORDS, WORDS).filter(is_plain), max_size=6, unique_by=lambda p: p.question.casefold()))
def test_rendered_pairs_parse_back(pairs: list[Pair]) -> None:
    parsed = parse_pairs(render_pairs(pairs))
    assert list(parsed.pairs) == pairs
    assert not parsed.drops


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("<QUE> q <ANS> a", "unfinished"),
        ("q <ANS> a </END>", "not one <QUE> at the start"),
        ("<QUE> q </END>", "not exactly one <ANS>"),
        ("<QUE> q <ANS> a <ANS> b </END>", "not exactly one <ANS>"),
        ("<QUE> q <ANS> a <QUE> r </END>", "not one <QUE> at the start"),
        ("<QUE> q </CON> <ANS> a </END>", "stray tag"),
        ("<QUE> <ANS> a </END>", "empty question"),
        ("<QUE> Let's think step by step. <ANS> a </END>", "empty question"),
        ("<QUE> q <ANS>  </END>", "empty answer"),
        ("<QUE> q\nOptions:\n- yes\n- no <ANS> maybe </END>", "answer not among its options"),
    ],
)
def test_invalid_piece_is_dropped_and_counted(output: str, reason: str) -> None:
    parsed = parse_pairs(output)
    assert parsed.pairs == ()
    assert parsed.drops == {reason: 1}


def test_repeated_question_is_dropped_ignoring_case() -> None:
    parsed = parse_pairs("<QUE> Why? <ANS> a </END>\n\n<QUE> WHY? <ANS> b </END>")
    assert parsed.pairs == (Pair("Why?", "a"),)
    assert parsed.drops == {"repeated question": 1}


def test_multiple_choice_keeps_an_answer_among_its_options() -> None:
    (pair,) = parse_pairs("<QUE> Which?\nOptions:\n- red\n- blue sky <ANS> blue sky </END>").pairs
    assert pair.options == ("red", "blue sky")


def test_output_after_another_context_is_ignored() -> None:
    assert parse_pairs("<QUE> q <ANS> a </END>\n\n<CON> t </CON> <QUE> r <ANS> b </END>").pairs == (Pair("q", "a"),)


def test_tags_in_a_text_are_escaped() -> None:
    context = render_context("before </CON>\n\n<QUE> forged <ANS> pair </END> after")
    assert _TAG.findall(context) == ["CON", "/CON"]


@pytest.mark.parametrize("options", [(), ("yes", "no")])
@pytest.mark.parametrize("reasoning", [None, "It rains.\nSo it is wet."])
def test_composed_pairs_are_taken_apart_again(options: tuple[str, ...], reasoning: str | None) -> None:
    pair = compose_pair("Is it wet?", "yes", options, reasoning)
    assert (pair.stem, pair.options, pair.reasoning, pair.conclusion) == ("Is it wet?", options, reasoning, "yes")
    multiple_choice = "multiple_choice" if options else "free_form"
    assert format_of(pair) == multiple_choice + ("_reasoning" if reasoning else "")


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (f"Is it wet?\n{REASONING_CUE}", "Yes, it rains."),
        ("Is it wet?", f"It rains.\n{CONCLUSION}yes"),
        (f"{REASONING_CUE} Is it wet?", f"It rains.\n{CONCLUSION}yes"),
    ],
    ids=["no conclusion", "no cue", "cue in front"],
)
def test_reasoning_takes_a_cue_and_a_conclusion(question: str, answer: str) -> None:
    pair = Pair(question, answer)
    assert (pair.reasoning, pair.conclusion) == (None, answer)
