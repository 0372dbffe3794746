"""Convert the validation errors of pydantic to problems, each with a remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from megatron_ipt.config.settings import Settings, known_keys, renamed_keys, sections_of
from megatron_ipt.errors import Problem

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_EXPECTED = {
    "bool": ("neither true nor false", "write true or false"),
    "dict": ("not a mapping", "write one `name: value` line for each entry"),
    "finite": ("not a finite number", "give a number"),
    "float": ("not a number", "give a number"),
    "int": ("not an integer", "give an integer"),
    "list": ("not a list", "write [A, B, ...]"),
    "model": ("a section, not a value", "write its settings as `name: value` lines below it"),
    "string": ("not a text", "give a text; quote it where YAML would read something else"),
}


def problems_of(schema: type[Settings], error: ValidationError) -> Iterator[Problem]:
    """Every problem that pydantic reports about a configuration of `schema`."""
    for found in error.errors(include_url=False):
        yield _problem(schema, _key(found["loc"]), found)


def _key(location: Sequence[int | str]) -> str:
    """The dotted key of a place: ("data", "blend", 0, "prefix") is data.blend[0].prefix."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def _problem(schema: type[Settings], key: str, found: ErrorDetails) -> Problem:
    kind, value = found["type"], found["input"]
    context: dict[str, Any] = found.get("ctx", {})
    if kind == "missing":
        return Problem(key, "(not set)", "this value is required", f"set {key} in the file or as {key}=VALUE")
    if kind == "extra_forbidden" and (renamed := renamed_keys(schema).get(key)):
        return Problem(key, value, f"this setting is now called {renamed}", f"write {renamed}")
    if kind == "extra_forbidden":
        return Problem(key, value, "no setting of that name", _suggest_key(schema, key))
    if kind == "literal_error":
        choices = context["expected"].replace("'", "").replace(" or ", ", ")
        return Problem(key, value, f"not one of {choices}", suggest(str(value), choices.split(", ")))
    if "remedy" in context:
        return Problem(key, value, found["msg"], context["remedy"])
    if (expected := _EXPECTED.get(kind.split("_")[0])) is not None:
        return Problem(key, value, *expected)
    setting = known_keys(schema).get(key)
    reason = f"must be {setting.values}" if setting and setting.values else found["msg"].replace("Input should", "must")
    return Problem(key, value, reason, f"see --help for what {key} takes")


def suggest(given: str, known: Sequence[str]) -> str:
    """The one of `known` that was probably meant; all of them where none resembles `given`."""
    nearest = difflib.get_close_matches(given, known, n=1)
    return f"did you mean {nearest[0]}?" if nearest else f"use one of {', '.join(known)}"


def _suggest_key(schema: type[Settings], key: str) -> str:
    """The setting of the same name in another section, or one of a similar name in this one."""
    known = list(known_keys(schema))
    section, _, name = key.rpartition(".")
    namesakes = [one for one in known if one.rpartition(".")[2] == name]
    siblings = [one for one in [*known, *sections_of(schema)] if one.rpartition(".")[0] == section]
    nearest = namesakes or difflib.get_close_matches(key, siblings, n=1, cutoff=0.75)
    if nearest:
        return f"did you mean {nearest[0]}?"
    return f"see --help for the settings of {section}" if section else "see --help for all settings"
