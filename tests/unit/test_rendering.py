"""Rendering: frequencies, orders, labels, and completeness of texts and pairs."""

from __future__ import annotations

import math
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_ipt.config.synthesis import ModeWeights, RenderConfig
from megatron_ipt.errors import UserError
from megatron_ipt.pairs.grammar import Pair, compose_pair
from megatron_ipt.synthesis.records import ChainRecord, TextRecord
from megatron_ipt.synthesis.rendering.bank import mode_templates, pair_templates
from megatron_ipt.synthesis.rendering.renderer import Rendered, Renderer
from megatron_ipt.synthesis.rendering.templates import ModeTemplate, PairTemplate, Template

OTHER_MODES = ("dialog", "numbered", "inline", "next_turn")
MODES = ("classic", *OTHER_MODES)
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "rendering.md"
ONE_OF_EACH = (
    compose_pair("What is told?", "A story."),
    compose_pair("Who tells it?", "Ann", ["Bob", "Ann", "Eve"]),
    compose_pair("How long is it?", "Ten pages.", reasoning="It began on page 3 and ended on page 12."),
    compose_pair("Where is it set?", "At sea", ["At sea", "In town"], "There is a ship."),
)
GUIDE_PAIRS = (
    compose_pair("How often does the tide turn in a day?", "Twice."),
    compose_pair("What turns twice a day?", "the tide", ["the wind", "the tide", "the moon"]),
)


def chain(number: int, *pairs_of_texts: tuple[Pair, ...]) -> ChainRecord:
    texts = (TextRecord(f"t{number}.{k}", f"Text {k} of {number}.", pairs) for k, pairs in enumerate(pairs_of_texts))
    return ChainRecord(augmented=True, texts=tuple(texts))


def only(mode: str, **changes: object) -> RenderConfig:
    weights = ModeWeights(**{name: float(name == mode) for name in ModeWeights.model_fields})
    return RenderConfig(modes=weights, short_modes=weights, **changes)


def chi_square_bound(degrees: int) -> float:
    """The value that chi-square exceeds once in 10,000 (approximation by Wilson and Hilferty)."""
    return degrees * (1 - 2 / (9 * degrees) + 3.719 * math.sqrt(2 / (9 * degrees))) ** 3


def chi_square(found: Counter[str], expected: dict[str, float]) -> float:
    assert set(found) <= {name for name, share in expected.items() if share}
    total = sum(found.values())
    return sum((found[name] - total * share) ** 2 / (total * share) for name, share in expected.items() if share)


@pytest.mark.slow
@pytest.mark.parametrize(("pairs", "weights"), [(2, RenderConfig().modes), (1, RenderConfig().short_modes)])
def test_modes_are_as_frequent_as_configured(pairs: int, weights: ModeWeights) -> None:
    renderer = Renderer(RenderConfig(), seed=11)
    rendered = [renderer.render(chain(number, ONE_OF_EACH[:pairs], ONE_OF_EACH[:2])) for number in range(20_000)]
    shares = {mode: weight / sum(dict(weights).values()) for mode, weight in weights}
    modes = Counter(one.mode for one in rendered)
    assert chi_square(modes, shares) < chi_square_bound(sum(map(bool, shares.values())) - 1)
    for mode in modes:
        first = Counter(str(one.qa_first) for one in rendered if one.mode == mode)
        assert chi_square(first, {"True": 0.05, "False": 0.95}) < chi_square_bound(1)


@pytest.mark.parametrize("mode", MODES)
def test_templates_are_drawn_uniformly(mode: str) -> None:
    renderer = Renderer(only(mode), seed=12)
    names = [f"free_form/{one.name}" for one in pair_templates("free_form")]
    names = names if mode == "classic" else [one.name for one in mode_templates(mode)]
    found = Counter(renderer.render(chain(number, ONE_OF_EACH[:1])).template for number in range(8_000))
    assert chi_square(found, dict.fromkeys(names, 1 / len(names))) < chi_square_bound(len(names) - 1)


def template_of(rendered: Rendered) -> PairTemplate | ModeTemplate:
    pair_format, _, name = rendered.template.rpartition("/")
    bank: tuple[PairTemplate | ModeTemplate, ...] = pair_templates(pair_format) if name != rendered.template else ()
    (template,) = [one for one in bank or mode_templates(rendered.mode) if one.name == name]
    return template


def read_options(text: str, template: Template, options: Sequence[str]) -> list[tuple[str, str]]:
    """Find labels and options in a document in which every question has the same `options`."""
    line = re.escape(template.option.format(label="LABEL", option="OPTION"))
    labels = "|".join(template.label(place) for place in range(len(options)))
    return re.findall(line.replace("LABEL", f"({labels})").replace("OPTION", f"({'|'.join(options)})"), text)


@pytest.mark.parametrize("mode", MODES)
def test_options_are_shuffled_and_labelled_correctly(mode: str) -> None:
    pair = compose_pair("Which?", "yes it is", ["no never", "yes it is", "maybe so"])
    renderer, orders = Renderer(only(mode), 5), Counter[str]()
    for number in range(1_200):
        rendered = renderer.render(chain(number, (pair,)))
        template = template_of(rendered)
        found = read_options(rendered.text, template, pair.options)
        assert [label for label, _ in found] == [template.label(place) for place in range(3)]
        assert {option for _, option in found} == set(pair.options)
        options = "\n".join(template.option.format(label=label, option=option) for label, option in found)
        (label,) = (label for label, option in found if option == "yes it is")
        if isinstance(template, PairTemplate):
            expected = [template.pair.format(question="Which?", options=options, answer=label)]
        else:
            expected = [template.question.format(number=1, question=f"Which?\n{options}")]
            expected += [template.answer.format(number=1, answer=label)]
        assert all(part in rendered.text for part in expected)
        orders[" ".join(option for _, option in found)] += 1
    assert len(orders) == 6
    assert chi_square(orders, dict.fromkeys(orders, 1 / 6)) < chi_square_bound(5)


def test_options_of_each_question_are_shuffled_independently() -> None:
    pairs = tuple(compose_pair(f"Which {n}?", "b", ["a", "b", "c", "d"]) for n in range(2))
    same = 0
    for number in range(500):
        rendered = Renderer(only("dialog"), 5).render(chain(number, pairs))
        order = [option for _, option in read_options(rendered.text, template_of(rendered), "abcd")]
        assert sorted(order[:4]) == sorted(order[4:]) == ["a", "b", "c", "d"]
        same += order[:4] == order[4:]
    assert same < 60  # one in 24 by chance


def test_options_can_keep_their_order() -> None:
    pair = compose_pair("Which?", "b", ["a", "b", "c"])
    for number in range(50):
        rendered = Renderer(only("dialog", shuffle_options=False), 5).render(chain(number, (pair,)))
        assert [option for _, option in read_options(rendered.text, template_of(rendered), "abc")] == ["a", "b", "c"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("qa_first", [0.0, 1.0])
def test_pairs_follow_or_precede_the_text_in_every_mode(mode: str, qa_first: float) -> None:
    for number in range(50):
        text = Renderer(only(mode, qa_first_fraction=qa_first), 7).render(chain(number, ONE_OF_EACH)).text
        places = [text.index("What is told?"), text.index(f"Text 0 of {number}.")]
        assert (places[0] < places[1]) == bool(qa_first)


WORDS = st.text(st.sampled_from("ab {}é水\"'.?-"), min_size=1, max_size=12).map(lambda text: f"x{text.strip()}y")


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    options = draw(st.lists(WORDS, min_size=2, max_size=5, unique=True)) if draw(st.booleans()) else []
    answer = options[0] if options else draw(WORDS)
    return compose_pair(draw(WORDS), answer, options, draw(WORDS) if draw(st.booleans()) else None)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(pairs(), max_size=3), min_size=1, max_size=3), st.integers(0, 10_000))
def test_nothing_is_lost(texts: list[list[Pair]], number: int) -> None:
    record = chain(number, *map(tuple, texts))
    rendered = Renderer(RenderConfig(), 3).render(record)
    for text in record.texts:
        assert text.text in rendered.text
        for pair in text.pairs:
            assert pair.stem in rendered.text
            assert all(option in rendered.text for option in pair.options)
            assert pair.options or pair.conclusion in rendered.text
            assert pair.reasoning is None or pair.reasoning in rendered.text
    assert (rendered.mode == "raw") == (not any(texts))


def test_text_without_pairs_is_rendered_alone() -> None:
    rendered = Renderer(RenderConfig(), 1).render(chain(1, (), ()))
    assert (rendered.text, rendered.mode) == ("Text 0 of 1.\n\nText 1 of 1.", "raw")


def test_pieces_of_a_document_can_be_joined() -> None:
    texts = (TextRecord("d#1", "One. ", ONE_OF_EACH[:1]), TextRecord("d#2", "Two.", ONE_OF_EACH[2:3]))
    record = ChainRecord(augmented=True, texts=texts)
    text = Renderer(only("classic", stitch=True, qa_first_fraction=0.0), 1).render(record).text
    assert text.startswith("One. Two.\n\n")
    assert "One. Two." not in Renderer(only("classic"), 1).render(record).text


def test_joined_pieces_have_the_mode_of_their_document() -> None:
    modes = RenderConfig(modes=only("numbered").modes, short_modes=only("classic").modes)
    texts = (TextRecord("d#1", "One. ", ONE_OF_EACH[:1]), TextRecord("d#2", "Two. "), TextRecord("d#3", "Three."))
    record = ChainRecord(augmented=True, texts=(*texts[:2], replace(texts[2], pairs=ONE_OF_EACH[2:3])))
    assert Renderer(modes, 1).render(record).mode == "classic"
    stitched = Renderer(modes.model_copy(update={"stitch": True}), 1).render(record)
    assert stitched.mode == "numbered"
    assert "One. Two. Three." in stitched.text


def test_text_without_pairs_is_unchanged_among_others() -> None:
    for mode in MODES:
        record = chain(1, ONE_OF_EACH, (), ONE_OF_EACH[:2])
        rendered = Renderer(only(mode, qa_first_fraction=0.0), 1).render(record)
        assert "\n\nText 1 of 1.\n\n" in rendered.text
        assert rendered.format == "free_form+multiple_choice+free_form_reasoning+multiple_choice_reasoning"


def test_conclusion_without_reasoning_is_a_plain_answer() -> None:
    pair = Pair("Who?\nLet's think step by step.", "Therefore, the answer is Ann")
    rendered = Renderer(only("classic"), 1).render(chain(1, (pair,)))
    assert rendered.format == "free_form"
    assert "Ann" in rendered.text and "step by step" not in rendered.text


@pytest.mark.parametrize("qa_first", [0.0, 1.0])
def test_text_turn_depends_on_its_position(qa_first: float) -> None:
    for number in range(100):
        rendered = Renderer(only("next_turn", qa_first_fraction=qa_first), 1).render(chain(number, ONE_OF_EACH[:2]))
        template = template_of(rendered)
        turn = (template.text_last if qa_first else template.text).format(text=f"Text 0 of {number}.")
        assert rendered.text.endswith(f"\n\n{turn}") if qa_first else rendered.text.startswith(f"{turn}\n\n")


def test_lead_appears_once_before_the_pairs_of_a_text() -> None:
    pairs = tuple(compose_pair(f"Why {n}?", "So.") for n in range(3))
    for number in range(200):
        rendered = Renderer(only("classic", qa_first_fraction=0.0), 1).render(chain(number, pairs))
        template = template_of(rendered)
        blocks = [template.pair.format(question=pair.question, answer="So.") for pair in pairs]
        lead = [template.lead] if template.lead else []
        assert rendered.text == "\n\n".join([f"Text 0 of {number}.", *lead, *blocks])


@pytest.mark.parametrize("mode", OTHER_MODES)
def test_chain_of_thought_has_a_cue_and_a_conclusion(mode: str) -> None:
    for number in range(100):
        rendered = Renderer(only(mode), 1).render(chain(number, ONE_OF_EACH[2:3]))
        template = template_of(rendered)
        answer = template.reasoned.format(reasoning=ONE_OF_EACH[2].reasoning, answer="Ten pages.")
        assert template.question.format(number=1, question=f"How long is it?\n{template.cue}") in rendered.text
        assert template.answer.format(number=1, answer=answer) in rendered.text


def test_single_pair_is_not_a_few_shot_example() -> None:
    for number in range(50):
        rendered = Renderer(only("inline", qa_first_fraction=0.0), 1).render(chain(number, ONE_OF_EACH[:1]))
        template = template_of(rendered)
        said = [template.question.format(question="What is told?"), template.answer.format(answer="A story.")]
        assert rendered.text == f"Text 0 of {number}.\n\n" + "\n".join(said)


SCRIPT = """
import hashlib, random
from test_rendering import ONE_OF_EACH, chain
from megatron_ipt.config.synthesis import RenderConfig
from megatron_ipt.synthesis.rendering.renderer import Renderer
numbers = list(range(300))
random.shuffle(numbers)
renderer = Renderer(RenderConfig(), 9)
texts = {number: renderer.render(chain(number, ONE_OF_EACH, ONE_OF_EACH[:2])).text for number in numbers}
print(hashlib.sha256("".join(texts[number] for number in sorted(texts)).encode()).hexdigest())
"""


def test_same_seed_gives_the_same_bytes_in_every_process_and_order() -> None:
    folder = __file__.rpartition("/")[0]
    digests = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT], env={"PYTHONPATH": folder, "PYTHONHASHSEED": seed}, capture_output=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1 and len(digests.pop()) > 60


def test_guide_shows_documents_as_rendered() -> None:
    texts = (TextRecord("tide", "The tide turns twice a day.", GUIDE_PAIRS),)
    for mode in MODES:
        rendered = Renderer(only(mode, qa_first_fraction=0.0), seed=1234).render(
            ChainRecord(augmented=True, texts=texts)
        )
        assert f"`{mode}`" in GUIDE.read_text(encoding="utf-8")
        assert f"```text\n{rendered.text}\n```\n" in GUIDE.read_text(encoding="utf-8")


def test_weights_that_leave_no_mode_are_refused() -> None:
    with pytest.raises(UserError, match="no mode can be drawn"):
        Renderer(only("none"), 1)


def test_rendering_does_not_use_the_global_generator() -> None:
    random.seed(1)
    one = Renderer(RenderConfig(), 1).render(chain(4, ONE_OF_EACH))
    random.seed(2)
    assert Renderer(RenderConfig(), 1).render(chain(4, ONE_OF_EACH)) == one
