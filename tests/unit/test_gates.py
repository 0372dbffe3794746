"""The gates: which well-formed pairs pass, and the reasons for the others."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from installed_packages import install_from_guide

from megatron_ipt.config.settings import identity_of
from megatron_ipt.config.synthesis import GatesConfig
from megatron_ipt.corpus.rows import read_rows
from megatron_ipt.errors import UserError
from megatron_ipt.pairs.grammar import Pair, compose_pair
from megatron_ipt.pairs.words import find_repeated_share, split_words
from megatron_ipt.synthesis.filtering.chain import PairGates
from megatron_ipt.synthesis.filtering.grounding import find_grounded_share
from megatron_ipt.synthesis.filtering.language import MIN_CHARACTERS
from megatron_ipt.synthesis.filtering.near_duplicates import NearDuplicates, find_near_duplicates
from megatron_ipt.synthesis.records import DroppedPair, TextRecord

RIVER = "The Rhine flows through Basel. It is 1,233 km long, and Germany's longest river."
ASKED = Pair("How long is the Rhine?", "1233 km")
INVENTED = Pair("Who bridged it first?", "Julius Caesar with forty thousand men")


def reason(pair: Pair, gain: float | None = None, /, **bounds: object) -> str | None:
    return PairGates(GatesConfig(**bounds)).reason(RIVER, pair, gain)


@pytest.mark.parametrize("pair", [ASKED, INVENTED, Pair("a a a a a a", "b b b b b b")])
def test_gates_without_a_bound_are_off(pair: Pair) -> None:
    assert reason(pair) is None


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("1233 km", 1.0),
        ("1,233 KM!", 1.0),
        ("1233.00 km", 1.0),
        ("1234 km", 0.5),
        ("It is the longest river of Germany.", 1.0),
        ("basel and Cologne", 0.5),
        ("Julius Caesar", 0.0),
        ("it is", 1.0),
        ("they were", 0.0),
    ],
)
def test_grounded_share_counts_content_words(answer: str, share: float) -> None:
    assert find_grounded_share(Pair("What?", answer), frozenset(split_words(RIVER))) == share


@pytest.mark.parametrize(
    "pair",
    [
        Pair("Is it long?", "Yes."),
        Pair("Is it short?", "no"),
        Pair("What is the sign?", "?"),
        compose_pair("Which city?", "Vienna", options=("Vienna", "Basel")),
        compose_pair("Is it long?", "yes", reasoning="Because the Danube is longer still."),
    ],
)
def test_verdicts_and_chosen_options_need_no_grounding(pair: Pair) -> None:
    assert find_grounded_share(pair, frozenset(split_words(RIVER))) is None
    assert reason(pair, min_grounded_share=1.0) is None


def test_only_the_conclusion_of_a_chain_of_thought_must_be_grounded() -> None:
    good = compose_pair("Which city?", "Basel", reasoning="Vienna is on another one.")
    assert reason(good, min_grounded_share=1.0) is None
    bad = compose_pair("Which city?", "Vienna", reasoning="It flows through Basel.")
    assert reason(bad, min_grounded_share=0.5) == "answer not grounded"


@pytest.mark.parametrize(
    ("bounds", "pair", "expected"),
    [
        ({"min_question_words": 5}, ASKED, None),
        ({"min_question_words": 6}, ASKED, "question too short"),
        ({"max_question_words": 5}, ASKED, None),
        ({"max_question_words": 4}, ASKED, "question too long"),
        ({"max_question_words": 2}, compose_pair("Which city?", "b", options=("a long one", "b")), None),
        ({"max_answer_words": 2}, ASKED, None),
        ({"max_answer_words": 1}, ASKED, "answer too long"),
        ({"min_grounded_share": 0.5}, INVENTED, "answer not grounded"),
        ({"max_answer_words": 1, "min_grounded_share": 0.5}, INVENTED, "answer too long"),
        ({"max_repeated_share": 0.0}, ASKED, None),
        ({"max_repeated_share": 0.5}, Pair("Why?", "on and on and on and on and on"), "repetitive"),
        ({"max_repeated_share": 0.5}, Pair("so so so so so so?", "why"), "repetitive"),
    ],
)
def test_bounds_are_applied(bounds: dict[str, object], pair: Pair, expected: str | None) -> None:
    assert reason(pair, **bounds) == expected


def test_answer_must_gain_from_the_text() -> None:
    assert reason(ASKED, 0.5, min_answer_gain=0.5) is None
    assert reason(ASKED, 0.49, min_answer_gain=0.5) == "answer not gained from the text"


def test_repeated_share() -> None:
    assert find_repeated_share("a b c a b c") == 0.25
    assert find_repeated_share("a b") == 0.0


LANGUAGES = {
    "en": Pair("Why do the leaves of many trees turn yellow in autumn?", "The green of the chlorophyll fades away."),
    "de": Pair("Warum färben sich die Blätter vieler Bäume im Herbst gelb?", "Das Grün des Chlorophylls verschwindet."),
    "fr": Pair(
        "Pourquoi les feuilles des arbres jaunissent-elles en automne ?", "Le vert de la chlorophylle disparaît."
    ),
    "ru": Pair("Почему осенью желтеют листья многих деревьев в наших лесах?", "Зелёный цвет хлорофилла исчезает."),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_languages_are_identified(language: str) -> None:
    assert reason(LANGUAGES[language], languages=[language]) is None
    others = [other for other in LANGUAGES if other != language]
    assert reason(LANGUAGES[language], languages=others) == "other language"


def test_language_of_short_pairs_is_not_judged() -> None:
    short = Pair("Pourquoi pas ?", "Parce que non.")
    assert len(short.question + short.answer) < MIN_CHARACTERS
    assert reason(short, languages=["en"]) is None


def test_all_impossible_gates_are_reported_at_once() -> None:
    config = GatesConfig(min_question_words=9, max_question_words=3, languages=["en", "klingon"])
    with pytest.raises(UserError) as error:
        PairGates(config)
    assert [problem.field for problem in error.value.problems] == ["gates.min_question_words", "gates.languages"]
    assert "klingon" in str(error.value)


def test_filter_moves_rejected_pairs() -> None:
    record = TextRecord("a", RIVER, (ASKED, INVENTED), answer_gains=(1.0, 2.0))
    kept = PairGates(GatesConfig(min_grounded_share=0.5)).filter(record)
    assert kept.pairs == (ASKED,)
    assert kept.answer_gains == (1.0,)
    assert kept.dropped == (DroppedPair(INVENTED, "answer not grounded"),)


def test_filter_uses_the_gain_of_each_pair() -> None:
    record = TextRecord("a", RIVER, (ASKED, INVENTED), answer_gains=(1.0, 2.0))
    kept = PairGates(GatesConfig(min_answer_gain=1.5)).filter(record)
    assert kept.pairs == (INVENTED,)


@pytest.fixture(scope="session")
def real_pairs(quickstart_inputs: Path) -> list[Pair]:
    files = [quickstart_inputs / "eval" / "boolq.validation.jsonl.gz"]
    return [
        Pair(row.values["question"], row.values["passage"][:80]) for row in read_rows(files, ["question", "passage"])
    ]


def alter(pair: Pair, draw: random.Random) -> Pair:
    """Replace one word of the answer, the punctuation and the case."""
    words = pair.answer.split()
    words[draw.randrange(len(words))] = "indeed"
    return Pair(f"{pair.question.upper()} ??", ", ".join(words))


def test_only_near_duplicates_of_earlier_pairs_are_found(real_pairs: list[Pair], tmp_path: Path) -> None:
    draw = random.Random(5)
    distinct = {pair.question: pair for pair in real_pairs}
    originals = [pair for pair in distinct.values() if len(f"{pair.question} {pair.answer}".split()) > 18][:400]
    copies = [alter(pair, draw) for pair in originals[:100]]
    base = find_near_duplicates(originals, 0.75, tmp_path / "base")
    found = find_near_duplicates([*originals, *copies], 0.75, tmp_path / "work")
    assert not (tmp_path / "work").exists()
    np.testing.assert_array_equal(found[: len(originals)], base)
    assert base.mean() < 0.05
    assert found[len(originals) :].mean() >= 0.98


def jaccard(one: Pair, other: Pair) -> float:
    mine, theirs = (
        set(itertools.pairwise(words)) for words in (f"{p.question} {p.answer}".split() for p in (one, other))
    )
    return len(mine & theirs) / len(mine | theirs)


@pytest.mark.slow
@pytest.mark.parametrize("similarity", [0.3, 0.5, 0.8, 0.95])
def test_near_duplicates_have_the_configured_similarity(similarity: float, tmp_path: Path) -> None:
    draw = random.Random(similarity)
    words = [f"word{number}" for number in range(4000)]
    pairs: list[Pair] = []
    for _ in range(200):
        own = draw.sample(words, 40)
        other = own[: draw.randrange(10, 40)]
        pairs += [Pair(" ".join(chosen[:5]), " ".join(chosen[5:])) for chosen in (own, other)]
    true = [max((jaccard(pair, earlier) for earlier in pairs[:place]), default=0.0) for place, pair in enumerate(pairs)]
    found = find_near_duplicates(pairs, similarity, tmp_path / "work")
    clear = [(flag, share) for flag, share in zip(found, true, strict=True) if abs(share - similarity) > 1e-9]
    assert not any(flag for flag, share in clear if share < similarity)
    assert np.mean([flag for flag, share in clear if share > similarity]) > 0.99


def test_files_may_be_signed_in_any_order_and_repeatedly(real_pairs: list[Pair], tmp_path: Path) -> None:
    files: list[list[Pair]] = [real_pairs[:300], [], real_pairs[200:500]]

    def search(name: str, order: tuple[int, ...]) -> Iterator[list[bool]]:
        near = NearDuplicates(tmp_path / name, 0.8)
        for number in order:
            near.sign(number, files[number])
        near.match(len(files))
        return (near.flags(number).tolist() for number in range(len(files)))

    first, empty, third = search("one", (0, 1, 2))
    assert empty == []
    assert all(third[:100])
    assert not any(flag and pair not in files[0] for flag, pair in zip(first, files[0], strict=True))
    assert list(search("other", (2, 1, 0, 2))) == [first, empty, third]


def test_pairs_that_differ_in_a_number_are_not_duplicates(tmp_path: Path) -> None:
    pair = Pair(
        "How many people lived in the town in 1801, when the first census was taken?", "There were 1,250 of them."
    )
    other = replace(pair, answer="There were 7,340 of them.")
    assert find_near_duplicates([pair, other, pair], 0.9, tmp_path / "work").tolist() == [False, False, True]


def test_gate_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the guide, installed as its metadata says."""
    name = install_from_guide(tmp_path / "site-packages", "gates.md", "megatron_ipt.gates")
    config = GatesConfig(max_answer_words=9, custom=[name])
    with pytest.raises(UserError, match=rf"gates\.custom = {name}"):
        PairGates(config)
    monkeypatch.syspath_prepend(str(tmp_path / "site-packages"))
    gates = PairGates(config)
    assert gates.reason("Rain.", Pair("What falls?", "See http://rain"), None) == "link in the answer"
    assert gates.reason("Rain.", Pair("What falls?", "Rain"), None) is None
    assert gates.reason("Rain.", Pair("What falls?", "http " * 10), None) == "answer too long"
    assert "custom" not in identity_of(GatesConfig())
    assert identity_of(config)["custom"] == [name]
