"""The template bank: validated YAML, one file per pair format of classic mode, and one per other mode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from string import Formatter
from typing import TypeVar

import yaml

from megatron_ipt.synthesis.rendering.templates import LABELS, ModeTemplate, PairTemplate, RephrasingTemplate

Kind = TypeVar("Kind", PairTemplate, ModeTemplate, RephrasingTemplate)
Fields = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class _Shape:
    """The fields of an entry, each with the placeholders that it must have, in alphabetical order."""

    required: Fields
    optional: Fields


_OPTIONS: Fields = {"option": ("label", "option"), "labels": ()}
_WORDING: Fields = {**_OPTIONS, "cue": (), "reasoned": ("answer", "reasoning")}
_TURNS: Fields = {"name": (), "question": ("question",), "answer": ("answer",)}
_SHAPES = {
    "free_form": _Shape({"name": (), "pair": ("answer", "question")}, {"lead": ()}),
    "multiple_choice": _Shape({"name": (), "pair": ("answer", "options", "question")}, {"lead": (), **_OPTIONS}),
    "free_form_reasoning": _Shape({"name": (), "pair": ("answer", "question", "reasoning")}, {"lead": ()}),
    "multiple_choice_reasoning": _Shape(
        {"name": (), "pair": ("answer", "options", "question", "reasoning")}, {"lead": (), **_OPTIONS}
    ),
    "dialog": _Shape(_TURNS, {"lead": (), **_WORDING}),
    "numbered": _Shape(
        {"name": (), "question": ("number", "question"), "answer": ("answer", "number")},
        {"lead": (), "between": (), **_WORDING},
    ),
    "inline": _Shape(_TURNS, {"lead": (), "between": (), **_WORDING}),
    "rephrasing": _Shape({"name": (), "frame": ("rephrasing",)}, {}),
    "next_turn": _Shape({**_TURNS, "text": ("text",), "text_last": ("text",)}, _WORDING),
}


@cache
def pair_templates(pair_format: str) -> tuple[PairTemplate, ...]:
    """Return the templates of a pair format, for classic mode."""
    return parse_templates(pair_format, _read(pair_format), PairTemplate)


@cache
def mode_templates(mode: str) -> tuple[ModeTemplate, ...]:
    """Return the templates of a mode other than classic."""
    return parse_templates(mode, _read(mode), ModeTemplate)


@cache
def rephrasing_templates() -> tuple[RephrasingTemplate, ...]:
    """Return the templates of rephrasings, for every mode."""
    return parse_templates("rephrasing", _read("rephrasing"), RephrasingTemplate)


def parse_templates(file: str, text: str, kind: type[Kind]) -> tuple[Kind, ...]:
    """Parse the entries of `file`, a name without its suffix, from its content `text`.

    Raises:
        ValueError: an entry has an unknown or invalid field, or lacks one; file and entry are named.
    """
    entries: list[dict[str, str]] = yaml.safe_load(text)
    for entry in entries:
        if problem := _find_problem(entry, _SHAPES[file]):
            raise ValueError(f"{file}.yaml: {entry.get('name')}: {problem}")
    names = [entry["name"] for entry in entries]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{file}.yaml: {min(repeated)}: two entries have this name")
    return tuple(kind(**entry) for entry in entries)


def _read(file: str) -> str:
    bank = resources.files("megatron_ipt.synthesis.rendering") / "template_bank"
    return (bank / f"{file}.yaml").read_text(encoding="utf-8")


def _find_problem(entry: Mapping[str, object], shape: _Shape) -> str | None:
    if missing := set(shape.required) - set(entry):
        return f"field {min(missing)} is missing"
    fields = {**shape.required, **shape.optional}
    for field, value in entry.items():
        if field not in fields:
            return f"unknown field {field}"
        if not isinstance(value, str):
            return f"{field} is not text"
        if (found := _find_placeholders(value)) != fields[field]:
            return f"{field} must have {_list(fields[field])}, but has {_list(found)}"
    if entry.get("labels", "A") not in LABELS:
        return f"labels must be one of {', '.join(LABELS)}"
    return None


def _find_placeholders(value: str) -> tuple[str, ...]:
    try:
        return tuple(sorted(name for _, name, _, _ in Formatter().parse(value) if name is not None))
    except ValueError:
        return ("an unbalanced brace",)


def _list(placeholders: tuple[str, ...]) -> str:
    return ", ".join(placeholders) or "no placeholder"
