"""The metrics of the domain tasks against their definitions, restated here with plain counts."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest

from megatron_ipt.evaluation.answer_numbers import has_same_number, read_numbers
from megatron_ipt.evaluation.domain_tasks import choose, cut_left, headline_f1, micro_f1, weighted_f1
from megatron_ipt.evaluation.entities import Entity, entity_f1, read_entities


def weighted_by_hand(pairs: list[tuple[int, int]]) -> Fraction:
    total = Fraction(0)
    for option in {right for right, _ in pairs}:
        true = sum(right == chosen == option for right, chosen in pairs)
        named = sum(chosen == option for _, chosen in pairs)
        there = sum(right == option for right, _ in pairs)
        total += there * Fraction(2 * true, named + there)
    return total / len(pairs)


@pytest.fixture
def answers() -> list[tuple[int, int, int]]:
    draw = random.Random(3)
    return [(draw.randrange(9), draw.randrange(4), draw.randrange(4)) for _ in range(400)]


def test_f1_of_options_is_that_of_plain_counts(answers: list[tuple[int, int, int]]) -> None:
    pairs = [(right, chosen) for _, right, chosen in answers]
    assert micro_f1(pairs) == pytest.approx(sum(right == chosen for right, chosen in pairs) / len(pairs), abs=1e-15)
    assert weighted_f1(pairs) == pytest.approx(float(weighted_by_hand(pairs)), abs=1e-15)


def test_headline_is_the_mean_over_classes(answers: list[tuple[int, int, int]]) -> None:
    classes = [[(right, chosen) for one, right, chosen in answers if one == number] for number in range(9)]
    expected = sum(map(weighted_by_hand, classes)) / 9
    assert headline_f1(answers) == pytest.approx(float(expected), abs=1e-15)
    together = [(right, chosen) for _, right, chosen in answers]
    assert headline_f1(answers) != pytest.approx(float(weighted_by_hand(together)), abs=1e-4)


def test_the_option_with_the_lowest_mean_loss_is_chosen() -> None:
    doc = {"option_tokens": [1, 4, 2]}
    assert choose(doc, [(-2.0, False), (-6.0, False), (-3.5, False)]) == 1  # 2, 1.5, 1.75 a token
    assert choose(doc, [(-1.0, False), (-4.0, False), (-2.0, False)]) == 0  # the first of equal ones


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1,234.5% of 20", [12.345, 20]),
        ("-3 and +.5e2", [-3, 50]),
        ("about 5%%", [0.0005]),
        ("none\n7", []),
        (" 0.07 then 0", [0.07, 0]),
        ("agent 007", [math.inf]),
        ("12,34", [12, 34]),
    ],
)
def test_numbers_are_read_from_the_first_line(text: str, numbers: list[float]) -> None:
    assert read_numbers(text) == pytest.approx(numbers)


def test_a_number_is_right_within_a_hundredth() -> None:
    assert has_same_number("12.3%", "it fell by 0.5, to 0.131")
    assert has_same_number("1,000", "1000.009")
    assert not has_same_number("1,000", "1000.02")
    assert not has_same_number("no number", "5")
    assert not has_same_number("5", "about\n5")
    assert not has_same_number("5 or 6", "6")


def test_no_answer_is_run_as_code() -> None:
    assert read_numbers("__import__('os').abort() 9**9**9") == [9, 9, 9]


def test_entities_are_words_before_a_type() -> None:
    text = "Ada Ltd (ORG), Berlin (LOC) Berlin (LOC), none"
    assert read_entities(text) == [Entity("Ltd", "ORG"), Entity("Berlin", "LOC")]


def f1_by_hand(names_and_types_right: int, wanted: int, given: int) -> float:
    precision, recall = names_and_types_right / (2 * given), names_and_types_right / (2 * wanted)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize(
    ("label", "answer", "expected"),
    [
        ("Ada (PER), Kiel (LOC)", "Ada (PER), Kiel (LOC)", 1.0),
        ("Ada (PER), Kiel (LOC)", "Ada (PER)", f1_by_hand(2, 2, 1)),
        ("Ada (PER)", "Ada (ORG)", f1_by_hand(1, 1, 1)),
        ("Ada (PER)", "Bo (PER), Ada (PER)", f1_by_hand(1, 1, 2)),  # the first that shares anything counts
        ("Ada (PER)", "ada (LOC)", 0.0),
        ("Ada (PER)", "", 0.0),
        ("", "Ada (PER)", 0.0),
    ],
)
def test_entities_earn_a_point_for_name_and_for_type(label: str, answer: str, expected: float) -> None:
    assert entity_f1(label, answer) == pytest.approx(expected, abs=1e-15)


def test_long_prompts_lose_their_beginning(quickstart_inputs: object) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(f"{quickstart_inputs}/tokenizer")
    text = " ".join(f"word{number}" for number in range(900))
    short = cut_left(text, tokenizer, 1948)
    tokens = len(tokenizer(short, add_special_tokens=False)["input_ids"])
    assert text.endswith(short)
    assert 1948 - 3 <= tokens <= 1948 < len(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert cut_left(short, tokenizer, 1948) == short
