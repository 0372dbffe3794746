"""The template bank: large, varied, ordered, and validated field by field."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict

import pytest

from megatron_ipt.pairs.formats import FORMATS
from megatron_ipt.synthesis.rendering.bank import (
    mode_templates,
    pair_templates,
    parse_templates,
    rephrasing_templates,
)
from megatron_ipt.synthesis.rendering.templates import ModeTemplate, PairTemplate, RephrasingTemplate

OTHER_MODES = ("dialog", "numbered", "inline", "next_turn")


def bank() -> Iterator[tuple[str, tuple[PairTemplate | ModeTemplate | RephrasingTemplate, ...]]]:
    yield from ((one, pair_templates(one)) for one in FORMATS)
    yield from ((one, mode_templates(one)) for one in OTHER_MODES)
    yield "rephrasing", rephrasing_templates()


def test_template_bank_is_large_and_has_no_duplicates() -> None:
    for file, templates in bank():
        assert len(templates) >= (40 if file in FORMATS else 10)
        wordings = Counter(
            re.sub(r"[:.,]", "", str({**asdict(one), "name": "", "option": "", "labels": ""})).casefold()
            for one in templates
        )
        assert [wording for wording, count in wordings.items() if count > 1] == []


def test_questions_precede_reasons_and_reasons_precede_answers() -> None:
    for pair_format in FORMATS:
        for template in pair_templates(pair_format):
            places = [template.pair.find(place) for place in ("{question}", "{reasoning}", "{answer}")]
            assert [place for place in places if place >= 0] == sorted(place for place in places if place >= 0)


def test_template_wording_fits_before_and_after_the_text() -> None:
    for file, templates in bank():
        for template in templates:
            words = " ".join(str(value) for field, value in asdict(template).items() if field != "name")
            assert not re.search(r"\b(above|below|preceding|previous|following (text|passage))\b", words), file
            assert not re.search(r"\s$|[ ]\n", words), file


ENTRY = '- {name: one, question: "{question}", answer: "{answer}"'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('- {name: one, question: "{question}"}', "dialog.yaml: one: field answer is missing"),
        ('- {question: "{question}", answer: "{answer}"}', "dialog.yaml: None: field name is missing"),
        (ENTRY + ', between: "x"}', "dialog.yaml: one: unknown field between"),
        (ENTRY + ', lead: "See {text}"}', "dialog.yaml: one: lead must have no placeholder, but has text"),
        (ENTRY + ', lead: "{"}', "dialog.yaml: one: lead must have no placeholder, but has an unbalanced brace"),
        (ENTRY + ', option: "{label}"}', "dialog.yaml: one: option must have label, option, but has label"),
        (ENTRY + ", labels: 1}", "dialog.yaml: one: labels is not text"),
        (ENTRY + ", labels: B}", "dialog.yaml: one: labels must be one of A, a, i, 1"),
        (ENTRY + "}\n" + ENTRY + "}", "dialog.yaml: one: two entries have this name"),
    ],
)
def test_invalid_entry_is_reported(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        parse_templates("dialog", text, ModeTemplate)


def test_labels_continue_as_numbers_after_the_letters() -> None:
    (template,) = [one for one in pair_templates("multiple_choice") if one.name == "roman"]
    assert [template.label(place) for place in (0, 3, 9, 10)] == ["i", "iv", "x", "11"]
