"""Convert pydantic's validation errors to problems, each with a remedy."""

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
    "string": ("not a string", "give a string, in quotes if YAML would read something else"),
}


def problems_of(schema: type[Settings], error: ValidationError) -> Iterator[Problem]:
    """Convert every error that pydantic reports about a configuration of `schema` to a problem."""
    for found in error.errors(include_url=False):
        yield _problem(schema, _key(found["loc"]), found)


def _key(location: Sequence[int | str]) -> str:
    """Convert the location of an error to a dotted key: ("data", "blend", 0, "prefix") to data.blend[0].prefix."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def _problem(schema: type[Settings], key: str, found: ErrorDetails) -> Problem:
    kind, value = found["type"], found["input"]
    context: dict[str, Any] = found.get("ctx", {})
    if kind == "missing":
        return Problem(key, "(not set)", "this setting is required", f"set {key} in the file or as {key}=VALUE")
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
    return Problem(key, value, reason, f"see --help for the values of {key}")


def suggest(given: str, known: Sequence[str]) -> str:
    """Suggest the one of `known` that was probably meant; list all of them if none resembles `given`."""
    nearest = difflib.get_close_matches(given, known, n=1)
    return f"did you mean {nearest[0]}?" if nearest else f"use one of {', '.join(known)}"


def _suggest_key(schema: type[Settings], key: str) -> str:
    """Suggest a setting with this name in another section, or one with a similar name in the same section."""
    known = list(known_keys(schema))
    section, _, name = key.rpartition(".")
    same_name = [candidate for candidate in known if candidate.rpartition(".")[2] == name]
    siblings = [candidate for candidate in [*known, *sections_of(schema)] if candidate.rpartition(".")[0] == section]
    nearest = same_name or difflib.get_close_matches(key, siblings, n=1, cutoff=0.75)
    if nearest:
        return f"did you mean {nearest[0]}?"
    return f"see --help for the settings of {section}" if section else "see --help for all settings"
