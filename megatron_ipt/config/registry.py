"""Registries of implementations by name, from this and other installed packages, and settings that take such names."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from megatron_ipt.errors import Problem


class Registry(Mapping[str, str]):
    """Maps names to implementations, given as `MODULE:OBJECT`; nothing is imported before `load`.

    Other installed packages add to it with entry points. These are looked up only if a name is not one of this package,
    or if all names are listed: reading the metadata of every installed package takes about 50 ms.
    """

    def __init__(self, group: str, own: Mapping[str, str]) -> None:
        """Combine the implementations of this package, `own`, with the entry points of `group`; `own` names win."""
        self.group = group
        self._own = own

    def __getitem__(self, name: str) -> str:
        return self._own[name] if name in self._own else self._installed()[name].value

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from sorted(self._installed().names - self._own.keys())

    def __len__(self) -> int:
        return len(self._own.keys() | self._installed().names)

    def load(self, name: str) -> Any:
        """Import the object registered as `name`.

        Raises:
            KeyError: no package provides that name.
        """
        return EntryPoint(name, self[name], self.group).load()

    def find_problems(self, field: str, names: Sequence[str]) -> list[Problem]:
        """Find those of `names`, given in the setting `field`, that no installed package provides."""
        provided = ", ".join(self)
        remedy = f"one of {provided}" if provided else f"install a package with an entry point in {self.group}"
        return [Problem(field, name, "no installed package provides it", remedy) for name in names if name not in self]

    def _installed(self) -> EntryPoints:
        return entry_points(group=self.group)


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity: typing hashes it, and a Registry is unhashable
class OneOf:
    """Restricts a string to names that are known only at run time: `Annotated[str, OneOf(MODEL_FAMILIES)]`.

    Help, JSON Schema and error messages treat the names like those of a `Literal`.
    """

    names: Collection[str]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "enum": list(self.names)}

    def _check(self, name: str) -> str:
        if name not in self.names:
            raise PydanticKnownError("literal_error", {"expected": ", ".join(self.names)})
        return name
