"""The templates: checked YAML, a file for each format of pairs in classic mode and for each other mode."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from string import Formatter
from typing import Any, TypeVar

import yaml

from megatron_ipt.synthesis.grammar import Pair

FORMATS = ("free_form", "multiple_choice", "free_form_reasoning", "multiple_choice_reasoning")
_PLACES = {
    "free_form": {"question", "answer"},
    "multiple_choice": {"question", "options", "answer"},
    "free_form_reasoning": {"question", "reasoning", "answer"},
    "multiple_choice_reasoning": {"question", "options", "reasoning", "answer"},
}
_LABELS = {"A": "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "a": "abcdefghijklmnopqrstuvwxyz"}
_ROMAN = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x")


@dataclass(frozen=True, kw_only=True)
class PairTemplate:
    """Classic mode: `lead` once before the pairs, `pair` for each; `option` and `labels` where there are options."""

    name: str
    lead: str
    pair: str
    option: str = "{label}. {option}"
    labels: str = "A"

    def label(self, place: int) -> str:
        """The label of the option at `place`, from 0."""
        if self.labels in _LABELS and place < len(_LABELS[self.labels]):
            return _LABELS[self.labels][place]
        return _ROMAN[place] if self.labels == "i" and place < len(_ROMAN) else str(place + 1)


@dataclass(frozen=True, kw_only=True)
class ModeTemplate:
    """The other modes: how a question and an answer are said; `text` wraps the text, `between` parts two sections."""

    name: str
    question: str
    answer: str
    lead: str = ""
    between: str = ""
    text: str = "{text}"


Template = TypeVar("Template", PairTemplate, ModeTemplate)


def format_of(pair: Pair) -> str:
    """Which of the four formats a pair has."""
    return ("multiple_choice" if pair.options else "free_form") + ("" if pair.reasoning is None else "_reasoning")


@cache
def pair_templates(pair_format: str) -> tuple[PairTemplate, ...]:
    """The templates of a format.

    Raises:
        ValueError: an entry is not what a template must be.
    """
    templates = _load(pair_format, PairTemplate)
    for template in templates:
        _check_places(pair_format, template.name, "pair", template.pair, _PLACES[pair_format])
        _check_places(pair_format, template.name, "option", template.option, {"label", "option"})
        if template.labels not in ("A", "a", "1", "i"):
            raise ValueError(f"{pair_format}.yaml: {template.name}: labels are A, a, 1 or i, not {template.labels!r}")
    return templates


@cache
def mode_templates(mode: str) -> tuple[ModeTemplate, ...]:
    """The templates of a mode other than classic.

    Raises:
        ValueError: an entry is not what a template must be.
    """
    templates = _load(mode, ModeTemplate)
    number = {"number"} if mode == "numbered" else set()
    for template in templates:
        _check_places(mode, template.name, "question", template.question, {"question", *number})
        _check_places(mode, template.name, "answer", template.answer, {"answer", *number})
        _check_places(mode, template.name, "text", template.text, {"text"})
    return templates


def _load(name: str, kind: type[Template]) -> tuple[Template, ...]:
    file = resources.files("megatron_ipt.synthesis") / "template_bank" / f"{name}.yaml"
    entries: list[dict[str, Any]] = yaml.safe_load(file.read_text(encoding="utf-8"))
    known = {field.name for field in fields(kind)}
    for entry in entries:
        if unknown := set(entry) - known:
            raise ValueError(f"{name}.yaml: {entry.get('name')}: unknown field {min(unknown)}")
    if len({entry["name"] for entry in entries}) < len(entries):
        raise ValueError(f"{name}.yaml: two entries have one name")
    return tuple(kind(**entry) for entry in entries)


def _check_places(file: str, name: str, field: str, text: str, wanted: set[str]) -> None:
    found = {place for _, place, _, _ in Formatter().parse(text) if place is not None}
    if found != wanted:
        raise ValueError(f"{file}.yaml: {name}: {field} holds {sorted(found)}, and must hold {sorted(wanted)}")
