"""YAML as people write it: only numbers, true, false and null are something other than strings.

PyYAML follows YAML 1.1, which reads a time limit of 24:00:00 as the number 86400, the language code no as false, 010 as
eight, and a run named 2026-01-31 as a date.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_INTEGER = r"[-+]?(?:0|[1-9][0-9_]*)"
_FLOAT = r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
_KINDS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", _INTEGER, list("-+0123456789")),
    ("float", _FLOAT, list("-+0123456789.")),
    ("merge", r"<<", ["<"]),
)


class _Loader(yaml.SafeLoader):
    """Recognizes nothing that PyYAML's loader does not, so that what `yaml.safe_dump` writes reads back equal."""


_Loader.yaml_implicit_resolvers = {}
for _kind, _pattern, _first_letters in _KINDS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"(?:{_pattern})\Z"), _first_letters)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        yaml.YAMLError: it is not YAML.
    """
    return yaml.load(text, _Loader)
