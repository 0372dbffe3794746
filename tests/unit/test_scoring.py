"""Scoring of synthesizers: answers against references, the choice of questions, prompts, and the whole stage."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_ipt.config.loading import config_from
from megatron_ipt.config.scoring import ScoreConfig
from megatron_ipt.config.synthesis import EngineConfig
from megatron_ipt.errors import UserError
from megatron_ipt.lm.engine import Completion, LMEngine, Request
from megatron_ipt.lm.prompt_tokenizer import PromptTokenizer, load_prompt_tokenizer
from megatron_ipt.pairs.answer_match import find_f1, is_exact
from megatron_ipt.pairs.grammar import Example, Pair
from megatron_ipt.pairs.prompts import example_ids
from megatron_ipt.reporting.scoring import Share
from megatron_ipt.synthesizer.scoring.answers import read_answer
from megatron_ipt.synthesizer.scoring.asking import ask
from megatron_ipt.synthesizer.scoring.heldout import choose_heldout
from megatron_ipt.synthesizer.scoring.metrics import measure
from megatron_ipt.synthesizer.scoring.questions import QuestionPrompts
from megatron_ipt.synthesizer.scoring.rows import AnswerRow, PairsRow
from megatron_ipt.synthesizer.scoring.stage import score

WORDS = st.lists(st.sampled_from(["the", "A", "an", "Basel", "basel.", "1,233", "km", "—", "thé", "!?", "x-y"]))


@pytest.mark.parametrize(
    ("answer", "reference", "f1", "exact"),
    [
        ("The Rhine.", "rhine", 1.0, True),
        ("a river in the north", "North river", 2 * 2 / (3 + 2), False),
        ("basel basel bern", "basel", 2 * 1 / (3 + 1), False),
        ("1,233 km", "1233 km", 1.0, True),
        ("north river", "river north", 1.0, False),
        ("another theme", "other hem", 0.0, False),
        ("", "the", 1.0, True),
        ("", "Basel", 0.0, False),
        ("!", "Basel", 0.0, False),
    ],
)
def test_f1_and_exact_match_count_words_as_squad_does(answer: str, reference: str, f1: float, exact: bool) -> None:
    assert find_f1(answer, reference) == pytest.approx(f1)
    assert is_exact(answer, reference) == exact


@given(WORDS, WORDS)
def test_f1_is_symmetric_and_lies_between_nothing_and_the_same_words(answer: list[str], reference: list[str]) -> None:
    f1 = find_f1(" ".join(answer), " ".join(reference))
    assert 0 <= f1 <= 1
    assert f1 == find_f1(" ".join(reference), " ".join(answer))
    assert f1 == 1 or not is_exact(" ".join(answer), " ".join(reference))


@pytest.mark.parametrize(
    ("question", "output", "expected"),
    [
        ("Where?", " Basel </END>\n\n<QUE> More? <ANS> no </END>", ("Basel", True)),
        ("Where?", " Basel\n\n<QUE> More?", ("Basel", False)),
        ("Where?", " Basel and so on", ("Basel and so on", False)),
        ("Where?", " </END>", ("", True)),
        (
            "Where?\nLet's think step by step.",
            " It says so.\nTherefore, the answer is Basel </END>",
            ("Basel", True),
        ),
    ],
)
def test_answer_ends_with_its_tag_and_without_its_reasoning(
    question: str, output: str, expected: tuple[str, bool]
) -> None:
    assert read_answer(question, output) == expected


def heldout_rows(sets: dict[str, int]) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{name}-{number}",
            "set": name,
            "context": f"The {name} of number {number} lies in town{number}.",
            "pairs": [{"Q": f"Where is {number}?", "A": f"town{number}"}, {"Q": f"Who {number}?", "A": name}],
        }
        for name, count in sets.items()
        for number in range(count)
    ]


def write_rows(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_choice_follows_from_seed_and_ids_alone(tmp_path: Path) -> None:
    rows = heldout_rows({"squad": 50, "coqa": 3})
    first = choose_heldout([write_rows(tmp_path / "a.jsonl", rows)], 10, 1, seed=1)
    random.Random(0).shuffle(rows)
    again = choose_heldout([write_rows(tmp_path / "b.jsonl", rows * 2)], 10, 1, seed=1)
    assert first == again
    assert {name: len(chosen) for name, chosen in first.items()} == {"coqa": 3, "squad": 10}
    assert all(len(one.pairs) == 1 for chosen in first.values() for one in chosen)
    assert choose_heldout([tmp_path / "b.jsonl"], 10, 1, seed=2) != first


@pytest.mark.parametrize("row", [{"id": "a"}, {"id": 1, "set": "s", "context": "c", "pairs": [{"Q": "q", "A": "a"}]}])
def test_row_of_another_form_is_named(row: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.jsonl:1 "):
        choose_heldout([write_rows(tmp_path / "x.jsonl", [row])], 1, 1, 1)


@pytest.fixture(scope="module")
def tokenizer(quickstart_inputs: Path) -> PromptTokenizer:
    return load_prompt_tokenizer(str(quickstart_inputs / "smollm2"))


EXAMPLE = Example("The Rhine flows through Basel.", (Pair("What flows?", "The Rhine"), Pair("Where?", "in Basel")))


def test_question_is_asked_as_in_tuning(tokenizer: PromptTokenizer) -> None:
    context, pairs = example_ids(tokenizer, EXAMPLE)
    prompt = QuestionPrompts(tokenizer, [], 512, 32).build(EXAMPLE.text, "What flows?")
    assert prompt is not None
    assert prompt.ids == [*context, *pairs][: len(prompt.ids)]
    assert prompt.ids.count(tokenizer.bos_ids[0]) == 1
    shown = QuestionPrompts(tokenizer, [EXAMPLE], 512, 32).build(EXAMPLE.text, "What flows?")
    assert shown is not None
    assert shown.ids == [*context, *pairs, *prompt.ids]


@given(words=st.integers(0, 400), question_words=st.integers(1, 120), window=st.integers(140, 300))
def test_question_fits_the_window_or_is_not_asked(
    words: int, question_words: int, window: int, tokenizer: PromptTokenizer
) -> None:
    text = " ".join(f"w{number}" for number in range(words))
    prompt = QuestionPrompts(tokenizer, [EXAMPLE], window, 20).build(text, "why " * question_words)
    if prompt is not None:
        assert len(prompt.ids) <= window - 20
    assert prompt is not None or words + question_words > 30
    whole = QuestionPrompts(tokenizer, [EXAMPLE], 4096, 20).build(text, "why " * question_words)
    assert whole is not None
    assert not whole.text_was_cut


class SlowEngine:
    """Answers a few requests at a time in any order; what it says about a prompt is given."""

    batch_invariant = True

    def __init__(self, answer: Callable[[str], str], capacity: int = 5, dies_after: int | None = None) -> None:
        self.capacity, self._answer, self._dies_after = capacity, answer, dies_after
        self._flying: list[Request] = []
        self._random = random.Random(1)
        self.answered = 0

    def submit(self, request: Request) -> None:
        assert len(self._flying) < self.capacity
        self._flying.append(request)

    def collect(self) -> list[Completion]:
        if self._dies_after is not None and self.answered >= self._dies_after:
            raise KeyboardInterrupt
        self._random.shuffle(self._flying)
        requests = [self._flying.pop() for _ in range(min(2, len(self._flying)))]
        self.answered += len(requests)
        return [self._generate(request) for request in requests]

    def score(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
        raise AssertionError("scoring asks for no likelihoods")

    def close(self) -> None:
        self._flying.clear()

    def _generate(self, request: Request) -> Completion:
        prompt = "".join(map(chr, request.prompt[1:]))
        text = self._answer(prompt)
        return Completion(request.key, text, len(text))


class Characters:
    """A tokenizer whose tokens are characters."""

    bos_ids = (1,)
    eos_ids = (2,)

    def encode(self, text: str) -> list[int]:
        return list(map(ord, text))

    def encode_after(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        return self.encode(prompt), self.encode(answer)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        return [(place, place + 1) for place in range(len(text))]

    def cut(self, text: str, max_tokens: int) -> str:
        return text[:max_tokens]


def test_answers_come_in_the_order_of_the_prompts() -> None:
    engine = SlowEngine(lambda prompt: prompt.upper())
    prompts = [[1, *map(ord, f"p{number}")] for number in range(33)]
    assert [one.text for one in ask(engine, prompts, 8, "test", 0.05)] == [f"P{number}" for number in range(33)]
    assert ask(engine, [], 8, "test", 0.05) == []


def reads_well(prompt: str) -> str:
    """Finds the town; of an even number it also writes a second pair."""
    context, _, question = prompt.rpartition(" </CON>")
    town = context.rpartition(" in ")[2].rstrip(".")
    if "<ANS>" in question:
        return f" {town if 'Where' in question else 'nobody'} </END>\n\n<QUE> again"
    second = " <QUE> Who? <ANS> nobody </END>" if town[-1] in "02468" else ""
    return f"<QUE> Where? <ANS> {town} </END>{second} <QUE> And"


def configure(tmp_path: Path, rows: Sequence[dict[str, Any]], output: str = "scores", **values: Any) -> ScoreConfig:
    models = {name: {"engine": {"model": name}} for name in ("silent", "tuned")}
    given = {"input": [str(write_rows(tmp_path / "heldout.jsonl", rows))], "output": str(tmp_path / output)}
    return config_from(ScoreConfig, {**given, "models": models, **values})


def run(config: ScoreConfig, loaded: list[str] | None = None, dies: str | None = None) -> dict[str, Any]:
    def load(engine: EngineConfig, _: PromptTokenizer) -> LMEngine:
        if loaded is not None:
            loaded.append(engine.model)
        answer = reads_well if engine.model == "tuned" else lambda _: ""
        return SlowEngine(answer, dies_after=5 if engine.model == dies else None)

    return score(config, load, lambda _: Characters())


def test_figures_are_what_the_models_wrote(tmp_path: Path) -> None:
    results = run(configure(tmp_path, heldout_rows({"coqa": 4, "squad": 10})))
    tuned, silent = results["models"]["tuned"], results["models"]["silent"]
    assert results["sets"] == {"coqa": {"contexts": 4, "questions": 8}, "squad": {"contexts": 10, "questions": 20}}
    assert tuned["overall"]["f1"]["value"] == tuned["overall"]["exact"]["value"] == 0.5
    assert tuned["overall"]["with_one_pair"] == {"value": 1.0, "stderr": 0.0}
    assert tuned["overall"]["with_two_pairs"]["value"] == 0.5
    assert tuned["overall"]["pairs_per_text"] == 1.5
    assert tuned["overall"]["drops"] == {"unfinished": 14}
    assert tuned["overall"]["finished"]["value"] == 1.0
    assert tuned["sets"]["squad"]["grounded"]["value"] == pytest.approx(10 / 15)
    assert silent["overall"]["f1"]["value"] == silent["overall"]["with_one_pair"]["value"] == 0.0
    assert silent["overall"]["grounded"] is None


def test_killed_run_asks_no_finished_model_again_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    rows = heldout_rows({"coqa": 4, "squad": 10})
    config = configure(tmp_path, rows)
    with pytest.raises(KeyboardInterrupt):
        run(config, dies="tuned")
    loaded: list[str] = []
    results = run(config, loaded)
    assert loaded == ["tuned"]
    assert run(config, loaded) == results
    assert loaded == ["tuned"]
    other = configure(tmp_path, rows, output="undisturbed")
    run(other)
    for file in Path(config.output).iterdir():
        assert file.read_bytes() == (Path(other.output) / file.name).read_bytes(), file.name
    with pytest.raises(UserError, match="another run's result"):
        run(configure(tmp_path, rows, seed=2))


class Tags(HTMLParser):
    """The tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)


def test_report_shows_text_as_text(tmp_path: Path) -> None:
    row = {"id": "a", "set": "<b>", "context": "<script>alert(1)</script> in town2.", "pairs": [{"Q": "<i>", "A": "x"}]}
    config = configure(tmp_path, [row])
    run(config)
    page = (Path(config.output) / "report.html").read_text(encoding="utf-8")
    parser = Tags()
    parser.feed(page)
    assert "article" in parser.found
    assert not {"script", "i", "b"} & parser.found
    assert "alert(1)" in page


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"models": {"a": {"engine": {"model": "m", "max_model_len": 300}}}}, "engine.max_model_len"),
        ({"models": {"a/b": {"engine": {"model": "m"}}}}, "models"),
        ({"models": {"a": {"engine": {"model": "./absent"}}}}, "models.a.engine.model"),
        ({"contexts_per_set": 0}, "contexts_per_set"),
    ],
)
def test_mistakes_are_told_before_any_model_is_loaded(values: dict[str, Any], field: str, tmp_path: Path) -> None:
    loaded: list[str] = []
    with pytest.raises(UserError) as caught:
        run(configure(tmp_path, heldout_rows({"squad": 2}), **values), loaded)
    assert ([problem.field for problem in caught.value.problems], loaded) == ([field], [])


def test_standard_error_takes_questions_of_one_context_together() -> None:
    answers = [AnswerRow(f"c{number // 2}", "s", f"q{number}", "x", f1=float(number < 4)) for number in range(8)]
    overall, _ = measure(answers, [PairsRow(f"c{number}", "s") for number in range(4)])
    assert overall.f1 == Share(0.5, pytest.approx((4 * 1.0) ** 0.5 / 8))
