"""The quality report: what it counts, that parts add up to the whole, that nothing in it runs."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.corpus.stable_hash import stable_hash
from megatron_ipt.pairs.formats import FORMATS, format_of
from megatron_ipt.pairs.grammar import Pair
from megatron_ipt.reporting.quality import gather_bins, mark_answers
from megatron_ipt.reporting.quality_rows import SamplePair, SampleText
from megatron_ipt.synthesis.quality.bottom_k import BottomK, add_up
from megatron_ipt.synthesis.quality.categories import CATEGORIES, find_category
from megatron_ipt.synthesis.quality.lengths import find_quantile, round_words
from megatron_ipt.synthesis.quality.report import QualityReport
from megatron_ipt.synthesis.quality.timing import WorkClock, write_timing
from megatron_ipt.synthesis.records import ChainRecord, DroppedPair, TextRecord

STEPS = "\nLet's think step by step."
OPTIONS = "\nOptions:\n- a cat\n- a dog"
RIVER = "The Rhine flows through Basel. It is 1,233 km long."
VOCABULARY = ("what", "why", "who", "is", "the", "river", "of", "an", "ox", "did", "flow", "é", "水")
Document = tuple[ChainRecord, str]


def report_of(documents: Iterable[Document], seed: int = 7) -> QualityReport:
    report = QualityReport(seed)
    for record, mode in documents:
        report.add(record, mode)
    return report


def figures_of(report: QualityReport, folder: Path) -> dict[str, Any]:
    return json.loads(report.write(folder)[0].read_text(encoding="utf-8"))


def draw_documents(count: int) -> list[Document]:
    """Documents of all kinds, the same ones each time."""
    chance = random.Random(3)

    def sentence(words: int) -> str:
        return " ".join(
            chance.choice(["what", "why", "who", "is", "the", "river", "of", "an", "ox", "did", "flow", "é", "水"])
            for _ in range(words)
        )

    documents: list[Document] = []
    for number in range(count):
        texts = []
        for place in range(chance.randint(1, 3)):
            pairs = tuple(
                Pair(sentence(chance.randint(1, 9)) + chance.choice(("?", OPTIONS, STEPS)), sentence(2))
                for _ in range(chance.randint(0, 4))
            )
            texts.append(
                TextRecord(
                    f"{number}#{place}",
                    sentence(chance.randint(1, 300)),
                    pairs,
                    tuple(chance.gauss(1, 2) for _ in pairs),
                    tuple(DroppedPair(Pair(sentence(4), "no"), f"gate {chance.randint(1, 3)}") for _ in pairs[2:]),
                    {"unfinished": 1} if chance.random() < 0.3 else {},
                    prompt_tokens=chance.randint(9, 999),
                    generated_tokens=chance.randint(1, 99),
                    was_cut=chance.random() < 0.1,
                )
            )
        augmented = chance.random() < 0.8
        documents.append((ChainRecord(augmented, tuple(texts)), chance.choice(("classic", "dialog", "raw"))))
    return documents


def test_parts_merged_in_any_order_write_the_bytes_of_the_whole(tmp_path: Path) -> None:
    documents = draw_documents(200)
    whole = report_of(documents)
    whole.add_contamination("boolq.validation", "pair")
    whole.add_contamination("boolq.validation", "text")
    chance = random.Random(1)
    for attempt in range(3):
        chance.shuffle(documents)
        cuts = sorted(chance.sample(range(1, 200), 3))
        bounds = zip([0, *cuts], [*cuts, 200], strict=True)
        parts = [report_of(documents[begin:end]) for begin, end in bounds]
        parts[attempt].add_contamination("boolq.validation", "text")
        parts[3].add_contamination("boolq.validation", "pair")
        chance.shuffle(parts)
        merged = QualityReport(7)
        for part in parts:
            merged.merge(QualityReport.from_row(json.loads(json.dumps(part.to_row()))))
        assert json.dumps(merged.to_row()) == json.dumps(whole.to_row())
    folders = [tmp_path / name for name in ("whole", "merged")]
    for folder in folders:
        folder.mkdir()
    for one, other in zip(whole.write(folders[0]), merged.write(folders[1]), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_seed_chooses_the_samples() -> None:
    documents = draw_documents(100)
    chosen = [report_of(documents, seed).to_row()["samples"]["texts"] for seed in (1, 1, 2)]
    ids = [[text["id"] for _, text in rows] for rows in chosen]
    assert len(ids[0]) == 12
    assert ids[0] == ids[1]
    assert ids[0] != ids[2]


@pytest.mark.slow
def test_other_hash_seeds_of_python_write_the_same_bytes(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import test_quality_report as t;"
        " t.report_of(t.draw_documents(60)).write(Path(sys.argv[2]))"
    )
    contents = []
    for hash_seed in ("1", "2"):
        folder = tmp_path / hash_seed
        folder.mkdir()
        arguments = [sys.executable, "-c", program, str(Path(__file__).parent), str(folder)]
        subprocess.run(arguments, check=True, env={**os.environ, "PYTHONHASHSEED": hash_seed})
        contents.append([(folder / name).read_bytes() for name in ("report.json", "report.html")])
    assert contents[0] == contents[1]


def test_counts_equal_those_made_by_hand(tmp_path: Path) -> None:
    """Two augmented documents of three texts, one raw document."""
    river = TextRecord(
        "river",
        RIVER,
        (
            Pair("How long is the Rhine?", "1,233 km"),
            Pair("Does it flow through Basel?", "Yes"),
            Pair("Why is it long?", "Because of Basel's rain"),
            Pair("Which one swims?" + OPTIONS, "a dog"),
        ),
        (1.0, -0.25, 0.5, 2.75),
        (DroppedPair(Pair("What is it?", "a lake"), "not grounded"),),
        {"unfinished": 1, "stray tag": 2},
        prompt_tokens=40,
        generated_tokens=90,
    )
    cut = TextRecord(
        "cut", "one two three", (Pair("HOW long is  the Rhine", "long"),), was_cut=True, generated_tokens=10
    )
    bare = TextRecord("bare", "nothing here", prompt_tokens=28, drops={"refused by the engine: too long": 1})
    documents = [
        (ChainRecord(True, (river, cut)), "classic"),
        (ChainRecord(True, (bare,)), "raw"),
        (ChainRecord(False, (TextRecord("raw", "left as it is"),)), "raw"),
    ]
    report = report_of(documents)
    report.add_contamination("mmlu.test", "pair")
    figures = figures_of(report, tmp_path)

    texts = figures["texts"]
    assert (texts["documents"], texts["count"], texts["augmented"], texts["cut"]) == (3, 4, 3, 1)
    assert (texts["with_a_pair"], texts["with_two_pairs"]) == (2, 1)
    assert texts["share_with_a_pair"] == pytest.approx(2 / 3)
    assert texts["pairs"] == {"0": 1, "1": 1, "4": 1}
    assert texts["words"]["counts"] == {"2": 1, "3": 1, "10": 1}
    assert figures["pairs"]["count"] == 5
    assert figures["pairs"]["question_words"]["counts"] == {"3": 1, "4": 1, "5": 3}
    assert figures["pairs"]["answer_words"]["counts"] == {"1": 2, "2": 2, "4": 1}
    assert figures["formats"] == dict(zip(FORMATS, (4, 1, 0, 0), strict=True))
    assert figures["modes"] == {"classic": 1, "raw": 2}
    assert figures["drops"]["pieces"] == 10
    assert {reason: entry["count"] for reason, entry in figures["drops"]["parsing"].items()} == {
        "stray tag": 2,
        "refused by the engine": 1,
        "unfinished": 1,
    }
    assert figures["drops"]["gates"] == {"not grounded": {"count": 1, "share": 0.1}}
    kinds = {name: sum(parts.values()) for name, parts in figures["categories"].items() if sum(parts.values())}
    assert kinds == {"number": 2, "yes or no": 1, "cause": 1, "choice": 1}
    # "1233" and "km" stand there; of "basel" and "rain" one does; "long" does not stand in "one two three"
    assert figures["groundedness"]["pairs"] == 3
    assert figures["groundedness"]["mean_share"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert {tenth: count for tenth, count in figures["groundedness"]["tenths"].items() if count} == {
        "0": 1,
        "5": 1,
        "10": 1,
    }
    assert figures["answer_gain"]["nats"] == {"-0.5": 1, "0.5": 1, "1.0": 1, "2.5": 1}
    assert figures["answer_gain"]["mean_nats"] == pytest.approx(1.0)
    assert figures["answer_gain"]["share_without_gain"] == 0.25
    assert figures["tokens"]["generated_per_pair"] == 20
    assert figures["tokens"]["per_word"] == pytest.approx((40 - 28) / (10 - 2))
    assert figures["first_words"]["counts"]["how"] == {"count": 2, "then": {"long": 2}}
    assert figures["repetition"]["different_questions"] == 4
    assert figures["repetition"]["share_asked_before"] == pytest.approx(1 / 5)
    assert figures["repetition"]["questions"] == {"how long is the rhine": 2}
    assert figures["contamination"] == {"mmlu.test": {"text": 0, "pair": 1}}
    assert {text["id"] for text in figures["samples"]["texts"]} == {"river", "cut", "bare"}
    assert [one["answer"] for one in figures["samples"]["dropped"]["not grounded"]] == ["a lake"]


class Elements(HTMLParser):
    """The tags of a page and the words between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.words += data


def test_nothing_that_a_text_or_a_model_wrote_becomes_markup(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>"
    pair = Pair(f"{evil} $\\frac{{1}}$ what?{OPTIONS}\n- {evil}", evil)
    text = TextRecord(evil, f"Before {evil} after", (pair,), dropped=(DroppedPair(pair, evil),), drops={evil: 1})
    foreign = TextRecord("水", "水の話", (Pair("何ですか 水", "水"), Pair("$a$ $b$", "$")))
    report = report_of([(ChainRecord(True, (text,)), evil), (ChainRecord(True, (foreign,)), "classic")])
    report.add_contamination(evil, "text")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, file = report.write(tmp_path)
    elements = Elements(file.read_text(encoding="utf-8"))
    assert elements.tags.count("script") == 2  # the page's own
    assert elements.words.count("alert('x')") >= 8
    assert "何ですか" in elements.words


def test_report_without_a_pair_can_be_written(tmp_path: Path) -> None:
    figures = figures_of(QualityReport(1), tmp_path)
    assert figures["pairs"]["per_text"] is None
    bare = ChainRecord(True, (TextRecord("a", "text", drops={"unfinished": 1}),))
    assert figures_of(report_of([(bare, "raw")]), tmp_path)["drops"]["share"] == 1
    assert "unfinished" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_bottom_k_is_the_smallest_of_all_and_its_counts_are_exact() -> None:
    chance = random.Random(2)
    keys = [stable_hash(chance.randint(1, 400)) for _ in range(5000)]
    truth = {key: keys.count(key) for key in sorted(set(keys))[:50]}
    parts = [BottomK(50, add_up) for _ in range(4)]
    for number, key in enumerate(keys):
        parts[number % 4].add(key, 1)
    merged = BottomK(50, add_up)
    for part in reversed(parts):
        merged.merge(part)
    assert merged.to_rows() == [[key, count] for key, count in truth.items()]


def test_number_of_different_questions_is_estimated_beyond_those_followed(tmp_path: Path) -> None:
    pairs = [tuple(Pair(f"question {10 * text + number % 8}", "x") for number in range(10)) for text in range(2000)]
    documents = [(ChainRecord(True, (TextRecord(str(n), "x", one),)), "classic") for n, one in enumerate(pairs)]
    repetition = figures_of(report_of(documents), tmp_path)["repetition"]
    assert repetition["questions_followed"] == 5000
    assert repetition["different_questions"] == pytest.approx(16_000, rel=0.05)
    assert repetition["share_asked_before"] == pytest.approx(0.2, abs=0.01)


def test_lengths_keep_two_digits() -> None:
    assert [round_words(words) for words in (0, 99, 100, 109, 110, 12_345)] == [0, 99, 100, 100, 110, 12_000]
    tally = report_of([])._tallies.text_words
    assert find_quantile(tally, 0.5) is None
    tally.update({3: 2, 5: 1, 40: 1})
    assert (find_quantile(tally, 0.5), find_quantile(tally, 0.95)) == (3, 40)
    assert gather_bins(tally, (0, 4, 40)) == [2, 1, 1]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is a good title for this passage?", "title"),
        ("Which wrestler has held the title for the most days?", "choice"),
        ("Summarize the article in two sentences.", "summary"),
        ("Is the sentiment of the review positive or negative?", "sentiment"),
        ("True or false: the Rhine is a river.", "claim check"),
        ("Rephrase the first sentence.", "rewriting"),
        ("The first line is called ____?", "completion"),
        ("Write a poem about rain.", "writing"),
        ("What will Robin want to do next?", "commonsense"),
        ("did they win", "yes or no"),
        ("How many more goals did he have in 2009?", "number"),
        ("What is the difference between jam and jelly?", "comparison"),
        ("In what year was it built?", "time"),
        ("Who was king when it was built?", "person or group"),
        ("What country is it in?", "place"),
        ("Why did the bird leave?", "cause"),
        ("What happened after the war?", "effect"),
        ("How do you prune a rose?", "procedure"),
        ("What is the purpose of the search?", "purpose"),
        ("What is photosynthesis?", "definition"),
        ("What are the symptoms of measles?", "list"),
        ("Describe the castle.", "description"),
        ("Was it red or blue?", "choice"),
        ("What did he eat?", "fact"),
        ("Rain on Tuesday", "other"),
    ],
)
def test_category(question: str, expected: str) -> None:
    assert find_category(question, "x") == expected
    assert expected in CATEGORIES


def test_category_of_a_claim_follows_from_its_answers() -> None:
    assert find_category("Cats bark.", "False") == "claim check"
    assert find_category("Cats bark.", "False", ("True", "False")) == "claim check"


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("Why?", "So.", 0),
        ("Which?" + OPTIONS, "a cat", 1),
        ("Why?" + STEPS, "It rains.\nTherefore, the answer is rain", 2),
        ("Why?" + STEPS, "Therefore, the answer is rain", 0),
        ("Which?" + OPTIONS + STEPS, "Cats purr.\nTherefore, the answer is a cat", 3),
    ],
)
def test_format(question: str, answer: str, expected: int) -> None:
    pair = Pair(question, answer)
    assert format_of(pair) == FORMATS[expected]
    assert pair.stem in ("Why?", "Which?")


def test_marked_pieces_are_the_text() -> None:
    answers = (
        "basel.",
        "it",  # too short to tell anything
        "flows through Basel",  # taken by the first
        "km long",
    )
    pairs = [SamplePair("?", answer, None) for answer in answers]
    pieces = mark_answers(SampleText("a", "classic", RIVER, pairs, [], {}))
    assert "".join(piece for piece, _ in pieces) == RIVER
    assert [piece for piece in pieces if piece[1]] == [("Basel", 1), ("km long", 4)]


def test_timing_stands_apart_from_the_report(tmp_path: Path) -> None:
    texts = [TextRecord(str(n), "w " * n, (Pair(f"q{n}", "a"),), prompt_tokens=20 + 3 * n) for n in (10, 20, 40)]
    report = report_of([(ChainRecord(True, (text,)), "classic") for text in texts])
    written = {file: file.read_bytes() for file in report.write(tmp_path)}
    assert json.loads((tmp_path / "report.json").read_bytes())["tokens"]["raw"] == 3 * 70
    clocks = [tmp_path / "0.jsonl", tmp_path / "1.jsonl"]
    clocks[0].write_text('{"seconds":86400,"devices":2}\n{"seconds":86400,"dev{"seconds":1,"devices":2}\n')  # a kill
    clocks[1].write_text('{"seconds":43200,"devices":0}\n')
    write_timing(tmp_path, clocks)
    timing = json.loads((tmp_path / "timing.json").read_text(encoding="utf-8"))
    assert timing["gpu_days_per_billion_raw_tokens"] == pytest.approx(2 / (210 / 1e9))
    assert timing["worker_seconds"] == 129_600
    assert (tmp_path / "timing.js").read_text(encoding="utf-8").startswith("const timing = {")
    assert {file: file.read_bytes() for file in written} == written


def test_clock_adds_up_over_runs(tmp_path: Path) -> None:
    figures_of(QualityReport(1), tmp_path)
    for _ in range(2):
        clock = WorkClock(tmp_path / "clocks" / "0.jsonl", 1)
        clock.lap()
        clock.lap()
        with (tmp_path / "clocks" / "0.jsonl").open("a") as lines:
            lines.write('{"seconds":100')  # killed
    assert (tmp_path / "clocks" / "0.jsonl").read_text().count("}\n") == 4
    write_timing(tmp_path, [tmp_path / "clocks" / "0.jsonl"])
    timing = json.loads((tmp_path / "timing.json").read_text(encoding="utf-8"))
    assert timing["worker_seconds"] < 5
    assert timing["gpu_days_per_billion_raw_tokens"] is None
