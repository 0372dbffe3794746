"""Evaluation questions are found wherever they are hidden, and clean texts are left alone."""

from __future__ import annotations

import gzip
import json
import random
import re
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.corpus.decontamination.decontaminator import Decontaminator
from megatron_ipt.corpus.decontamination.normalized_text import NormalizedText
from megatron_ipt.corpus.decontamination.questions import name_set, read_questions
from megatron_ipt.corpus.rows import read_objects, read_rows
from megatron_ipt.errors import UserError

NGRAM_WORDS = 13
PLANTED_A_SET = 25
FIELDS = ("question_stem", "goal", "ctx", "sentence", "question")
MIN_PLANTED_WORDS = 2  # a single word stands in many a text, and is only found in a pair
LONG = "Which of the two planets that were named after gods of the sea is the farther one from the sun today?"
TEXT = "It rained all day. Nobody came to the harbour, and the boats lay still. In the evening the lamps were lit."

Change = Callable[[str], str]


def write_set(folder: Path, rows: Sequence[dict[str, Any]], name: str = "made.test.jsonl") -> Path:
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def decontaminator_of(folder: Path, *rows: dict[str, Any]) -> Decontaminator:
    return Decontaminator([write_set(folder, rows)], NGRAM_WORDS)


def plant(text: str, question: str, place: int = 1) -> str:
    """The question as a paragraph of its own behind a number of sentences."""
    sentences = re.split(r"(?<=[.!?])\s", text)
    place = min(place, len(sentences))
    return f"{' '.join(sentences[:place])}\n\n{question}\n\n{' '.join(sentences[place:])}"


def repunctuate(question: str) -> str:
    draw = random.Random(question)
    changed = "".join(draw.choice(".,;:!-()\"'") if letter in string.punctuation else letter for letter in question)
    return " ".join(word + draw.choice(["", "", "", ",", " -", "..."]) for word in changed.split())


CHANGES: dict[str, Change] = {
    "verbatim": str,
    "upper": str.upper,
    "lower": str.lower,
    "title": str.title,
    "bare": lambda question: question.translate(str.maketrans("", "", string.punctuation)),
    "spaced": lambda question: re.sub(r"[^\w\s]", " ", question),
    "repunctuated": repunctuate,
    "wrapped": lambda question: "\n".join(question.split()),
    "quoted": lambda question: f"“{question}”",
}


@pytest.fixture(scope="module")
def eval_files(quickstart_inputs: Path) -> list[Path]:
    files = sorted((quickstart_inputs / "eval").glob("*.jsonl.gz"))
    return [file for file in files if ".train." not in file.name]


@pytest.fixture(scope="module")
def real(eval_files: list[Path]) -> Decontaminator:
    return Decontaminator(eval_files, NGRAM_WORDS)


@pytest.fixture(scope="module")
def documents(quickstart_inputs: Path) -> list[str]:
    return [row.values["text"] for row in read_rows([quickstart_inputs / "raw" / "boolq.jsonl"], ["text"])]


@pytest.fixture(scope="module")
def questions(eval_files: list[Path]) -> list[tuple[str, str]]:
    """Some questions of each set, as they stand in its field."""
    chosen = []
    for file in eval_files:
        rows = [next(row.values[name] for name in FIELDS if name in row.values) for row in read_objects([file])]
        chosen += [(name_set(file), row) for row in random.Random(file.name).sample(rows, PLANTED_A_SET)]
    return chosen


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_planted_questions_are_found(
    change: str, real: Decontaminator, documents: list[str], questions: list[tuple[str, str]]
) -> None:
    draw = random.Random(change)
    assert len(questions) > 250
    missed = []
    for name, question in questions:
        planted = plant(draw.choice(documents), CHANGES[change](question), draw.randrange(5))
        if len(question.split()) >= MIN_PLANTED_WORDS and not real.find_all(planted):
            missed.append((name, question))
    assert missed == []


@pytest.mark.parametrize("change", CHANGES)
def test_planted_questions_are_found_in_pairs_however_short(
    change: str, real: Decontaminator, questions: list[tuple[str, str]]
) -> None:
    missed = [one for one in questions if real.find_in_pair(CHANGES[change](one[1]), "I do not know.") is None]
    assert missed == []


@pytest.mark.slow
def test_clean_documents_are_not_flagged(real: Decontaminator, documents: list[str]) -> None:
    flagged = [text for text in documents if real.find(text) is not None]
    assert len(documents) > 5000
    assert len(flagged) < len(documents) / 1000, flagged


def test_a_hit_names_set_row_and_words(tmp_path: Path) -> None:
    found = decontaminator_of(tmp_path, {"question": LONG}, {"id": "b-7", "question": f"{LONG} Or is it neither?"})
    hit = found.find(plant(TEXT, LONG.upper()))
    assert hit is not None
    assert (hit.eval_set, hit.row, hit.words) == ("made.test", "1", LONG.upper().removesuffix("?"))
    assert [hit.row for hit in found.find_all(plant(TEXT, f"{LONG} Or is it neither?"))] == ["1", "b-7"]
    assert found.questions_of_sets == {"made.test": 2}


def test_as_many_words_in_a_row_as_configured_are_enough(tmp_path: Path) -> None:
    words = LONG.split()
    found = decontaminator_of(tmp_path, {"question": LONG})
    assert found.find(f"They asked: {' '.join(words[3 : 3 + NGRAM_WORDS])} and so on.") is not None
    assert found.find(f"They asked: {' '.join(words[3 : 2 + NGRAM_WORDS])} and so on.") is None


def test_a_passage_that_questions_share_is_not_the_question(tmp_path: Path) -> None:
    passage = (
        "We hold these truths to be self-evident, that all men are created equal, that they are endowed with rights."
    )
    ends = ("Who wrote it first of all?", "When was it made known to the public?")
    found = decontaminator_of(tmp_path, *({"question": f"{passage} {end}"} for end in ends))
    assert found.find(plant(TEXT, passage)) is None
    hits = [found.find(plant(TEXT, f"{passage} {end}")) for end in ends]
    assert [hit.row for hit in hits if hit] == ["1", "2"]


def test_two_rows_that_ask_the_same_are_both_found(tmp_path: Path) -> None:
    found = decontaminator_of(tmp_path, {"question": LONG, "options": ["a"]}, {"question": LONG, "options": ["b"]})
    assert [hit.row for hit in found.find_all(plant(TEXT, LONG))] == ["1", "2"]


SUN = {"question_stem": "A solar eclipse occurs when", "choices": {"text": ["the moon hides the sun", "it rains"]}}


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("Look up. A solar eclipse occurs when\n\nNobody saw it.", True),
        ("They asked. a solar eclipse occurs when? Nobody knew.", True),
        ("Then they wrote A solar eclipse occurs when into the book.", True),
        ("A solar eclipse occurs when the moon hides the sun.", True),
        ("A solar eclipse occurs when another body passes in between.", False),
        ("It is so that a solar eclipse occurs when bodies align.", False),
        ("A solar eclipses occurs when", False),
    ],
)
def test_a_short_question_has_to_stand_apart_or_with_an_option(tmp_path: Path, text: str, is_found: bool) -> None:
    assert (decontaminator_of(tmp_path, SUN).find(text) is not None) == is_found


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("The sum was due.\n\nTo chop parsley\n\nNobody came.", True),
        ("They went To chop parsley in the yard.", False),
        ("They went to chop parsley, hold the leaves and rock the knife over them.", True),
    ],
)
def test_so_few_words_have_to_stand_by_themselves(tmp_path: Path, text: str, is_found: bool) -> None:
    goal = {"goal": "To chop parsley", "sol1": "hold the leaves and rock the knife over them", "sol2": "boil it"}
    assert (decontaminator_of(tmp_path, goal).find(text) is not None) == is_found


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("Boats lay still. To chop parsley In the evening it rained.", True),
        ("Boats lay still. to chop parsley? Nobody knew.", True),
        ("Boats lay still. To chop parsley, take a knife.", False),
        ("Boats lay still. To chop parsley (CP) takes long.", False),
        ("They said To chop parsley. Nobody knew.", False),
    ],
)
def test_three_words_have_to_lead(tmp_path: Path, text: str, is_found: bool) -> None:
    goal = {"goal": "To chop parsley", "sol1": "use a knife", "sol2": "use a spoon"}
    assert (decontaminator_of(tmp_path, goal).find(text) is not None) == is_found


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("Boats lay still. Predators eat In the evening it rained.", True),
        ("Boats lay still. PREDATORS EAT In the evening it rained.", True),
        ("Boats lay still. Predators Eat In the evening it rained.", False),
        ("Boats lay still.\n\nPredators Eat\n\nIt rained.", True),
        ("Boats lay still. Predators eat in the evening.", False),
    ],
)
def test_two_words_have_to_lead_and_not_look_like_a_heading(tmp_path: Path, text: str, is_found: bool) -> None:
    stem = {"question_stem": "Predators eat", "choices": {"text": ["boats", "stones"]}}
    assert (decontaminator_of(tmp_path, stem).find(text) is not None) == is_found


def test_three_words_that_begin_small_are_no_heading_and_count_anywhere(tmp_path: Path) -> None:
    found = decontaminator_of(tmp_path, {"goal": "to taser someone", "sol1": "cooks", "sol2": "flies"})
    assert found.find("They had come to taser someone in the yard.") is not None
    assert found.find("They had come to taser something in the yard.") is None


def plant_inside(text: str, question: str, draw: random.Random) -> str:
    """The question within a paragraph, between two sentences, with nothing but spaces around it."""
    borders = [match.end() for match in re.finditer(r"[.!?]\s(?=[A-Z])", text)] or [len(text)]
    place = draw.choice(borders)
    return f"{text[:place].rstrip()} {question} {text[place:]}"


@pytest.mark.parametrize("change", ["verbatim", "upper", "lower", "repunctuated"])
def test_questions_within_a_paragraph_are_found(
    change: str, real: Decontaminator, documents: list[str], questions: list[tuple[str, str]]
) -> None:
    draw = random.Random(change)
    planted = [(name, question) for name, question in questions if len(question.split()) >= 4]
    texts = [plant_inside(draw.choice(documents), CHANGES[change](question), draw) for _, question in planted]
    missed = [one for one, text in zip(planted, texts, strict=True) if real.find(text) is None]
    assert missed == []


def test_a_single_word_counts_in_a_pair_only(tmp_path: Path) -> None:
    found = decontaminator_of(tmp_path, {"goal": "lighter", "sol1": "lights a fire", "sol2": "mows a lawn"})
    assert found.find("A box.\n\nLighter\n\nA lighter box.") is None
    assert found.find_in_pair("Lighter?", "It lights a fire.") is not None
    assert found.find_in_pair("What is lighter?", "A feather.") is None


ROWS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "arc": ({"question": LONG, "choices": {"text": ["a", "b"], "label": ["A", "B"]}}, [LONG]),
    "raw arc": ({"question": {"stem": LONG, "choices": [{"text": "a", "label": "A"}]}}, [LONG]),
    "hellaswag": ({"ctx": "[header] How to swim [title] Go in.", "endings": ["x"]}, ["header How to swim title Go in"]),
    "hellaswag as asked": (
        {"ctx": "[header] How to swim quickly now [title] Go in.", "endings": ["x"]},
        ["How to swim quickly now: Go in."],
    ),
    "winogrande": (
        {"sentence": "The cup fell off the table as _ was too high.", "option1": "it", "option2": "she"},
        [
            "The cup fell off the table as _ was too high.",
            "The cup fell off the table as it was too high.",
            "The cup fell off the table as she was too high.",
        ],
    ),
    "social iqa": (
        {"context": "Kim met a dog at the old mill.", "question": "Why did Kim run?", "answerA": "fear"},
        [
            "Kim met a dog at the old mill. Why did Kim run?",
            "Why did Kim run?",
            "Kim met a dog at the old mill.",
        ],
    ),
    "han": ({"question": "这座城市的人口在去年达到了多少万人？"}, ["这座城市的人口在去年达到了多少万人"]),
    "sharp s": (
        {"question": "Welche Straße führt zum großen Hafen der Stadt?"},
        ["WELCHE STRASSE FÜHRT ZUM GROSSEN HAFEN DER STADT?"],
    ),
}


@pytest.mark.parametrize("layout", ROWS)
def test_layouts_and_wordings(layout: str, tmp_path: Path) -> None:
    row, wordings = ROWS[layout]
    found = decontaminator_of(tmp_path, row)
    assert [wording for wording in wordings if found.find(plant(TEXT, wording)) is None] == []
    assert found.find(TEXT) is None


def test_a_passage_is_no_question(tmp_path: Path) -> None:
    passage = "The mill at the river was built of red stone by two brothers who had come from the north."
    found = decontaminator_of(tmp_path, {"question": "is the mill made of red stone", "passage": passage})
    assert found.find(plant(TEXT, passage)) is None
    assert found.find(plant(TEXT, "Is the mill made of red stone?")) is not None


def test_options_of_every_layout_are_read(tmp_path: Path) -> None:
    rows = [
        {"question": LONG, "choices": {"text": ["a", "b"], "label": ["A", "B"]}},
        {"question": {"stem": LONG, "choices": [{"text": "a"}, {"text": "b"}]}},
        {"question": LONG, "choices": ["a", "b"], "answer": 1},
        {"goal": LONG, "sol1": "a", "sol2": "b"},
        {"question": LONG, "answerA": "a", "answerB": "b"},
    ]
    assert {question.options for question in read_questions([write_set(tmp_path, rows)])} == {("a", "b")}


@pytest.mark.parametrize(
    ("rows", "ngram_words", "named"),
    [
        ([{"question": "Why?"}, {"text": "a", "label": 1}], 13, "made.test.jsonl:2"),
        ([{"question": " "}], 13, "made.test.jsonl:1"),
        ([], 13, "made.test.jsonl"),
    ],
)
def test_unfit_settings_are_told(rows: list[dict[str, Any]], ngram_words: int, named: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        Decontaminator([write_set(tmp_path, rows)], ngram_words)
    assert named in str(error.value)


@pytest.mark.parametrize("text", ["", " \n", "?!", "a", "ab " * 100_000, "\ud800 lone", "水" * 5000])
def test_any_text_can_be_looked_through(text: str, tmp_path: Path) -> None:
    found = decontaminator_of(tmp_path, {"question": LONG})
    assert found.find(text) is None
    assert found.find_in_pair(text, text) is None


def test_letters_hash_alike_wherever_they_stand() -> None:
    one, other = NormalizedText("So-called 'HARD' cases"), NormalizedText("these are, so called, hard cases.")
    whole = one.hash_ngrams(one.word_starts[:1], len(one))
    assert other.hash_ngrams(other.word_starts[2:3], len(one)) == whole
    assert other.quote(8, 8 + len(one)) == "so called, hard cases"


def test_compressed_sets_are_read(tmp_path: Path) -> None:
    file = tmp_path / "made.validation.jsonl.gz"
    file.write_bytes(gzip.compress(json.dumps({"question": LONG}).encode()))
    hit = Decontaminator([file], NGRAM_WORDS).find(LONG)
    assert hit is not None and hit.eval_set == "made.validation"
