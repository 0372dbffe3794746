"""Settings: frozen pydantic models whose declarations drive the loader, `--help`, the reference and stage identity."""

from __future__ import annotations

import dataclasses
import inspect
import math
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

import annotated_types
import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, PydanticUndefined

from megatron_ipt.config.registry import OneOf

DEFAULT_SEED = 1234
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Settings(BaseModel):
    """A section of a configuration; each field declares its type, range or choices, default and description."""

    # coerce_numbers_to_str: YAML reads a run named 2026 as a number. defer_build: building all validators would slow
    # down every start, and --help needs none of them.
    model_config = ConfigDict(
        frozen=True, extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False, defer_build=True
    )

    renamed: ClassVar[Mapping[str, str]] = {}
    """New names of fields by their old names. In a user's file, an old name is an error that gives the new one; in the
    recorded configuration of a run or checkpoint, it is migrated."""

    @classmethod
    def implied(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return values that replace the defaults because of other settings in `given`, such as a model preset."""
        return {}

    @model_validator(mode="before")
    @classmethod
    def _add_implied(cls, given: Any) -> Any:
        return {**cls.implied(given), **given} if isinstance(given, Mapping) else given

    @field_validator("*", mode="before")
    @classmethod
    def _convert_number(cls, value: Any, info: Any) -> Any:
        """Reject true as a number, which pydantic 2 reads as 1, and read 1e3 as an integer."""
        kinds = _union_members(cls.model_fields[info.field_name].annotation)
        if isinstance(value, bool) and {int, float} & kinds and bool not in kinds:
            raise PydanticCustomError("float_type", "not a number")
        if isinstance(value, str) and int in kinds and str not in kinds:
            return _parse_integral(value)
        return value


class NotIdentity:
    """Marks a setting that does not influence the results of a stage: `Annotated[int, NotIdentity]`."""


class IdentityUnlessDefault:
    """Marks a setting that earlier releases did not have: at its default, results of those releases stay valid."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One key of a configuration, as help and reference show it; `values` lists its choices or gives its range."""

    help: str
    default: Any
    values: str = ""

    @property
    def is_required(self) -> bool:
        """Whether there is no default."""
        return self.default is PydanticUndefined

    @property
    def shown_default(self) -> str:
        """The default as YAML, so that `key=DEFAULT` on the command line changes nothing."""
        text: str = yaml.safe_dump(self.default, default_flow_style=True, width=math.inf)
        return text.removesuffix("...\n").strip()


@dataclasses.dataclass(frozen=True)
class Section:
    """Settings that share a prefix, with a description of the section."""

    help: str
    settings: dict[str, Setting]


def known_keys(schema: type[Settings]) -> dict[str, Setting]:
    """Return every setting of `schema` by its dotted key."""
    return {key: setting for section in sections_of(schema).values() for key, setting in section.settings.items()}


def sections_of(schema: type[Settings]) -> dict[str, Section]:
    """Return the sections of `schema` by dotted name; its top-level settings come first, under the empty name."""
    return dict(_sections("", inspect.getdoc(schema) or "", schema, None))


def section_type(field: FieldInfo) -> type[Settings] | None:
    """Return the class of a field that is a section; None if it is a setting."""
    kind = field.annotation
    return kind if inspect.isclass(kind) and issubclass(kind, Settings) else None


def renamed_keys(schema: type[Settings], prefix: str = "") -> dict[str, str]:
    """Return the dotted keys of renamed settings, by their old keys."""
    keys = {f"{prefix}{old}": f"{prefix}{new}" for old, new in schema.renamed.items()}
    for name, field in schema.model_fields.items():
        if section := section_type(field):
            keys |= renamed_keys(section, f"{prefix}{name}.")
    return keys


def default_of(field: FieldInfo) -> Any:
    """Return the default of `field`; `PydanticUndefined` if it is required."""
    return field.get_default(call_default_factory=True)


def identity_of(config: Settings) -> dict[str, Any]:
    """Return the settings of `config` that influence the results of its stage, nested by section."""
    values: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        is_new = IdentityUnlessDefault in field.metadata and value == default_of(field)
        if NotIdentity not in field.metadata and not is_new:
            values[name] = _identity(value)
    return values


def choices_of(field: FieldInfo) -> tuple[Any, ...]:
    """Return the choices of a field that is a `Literal` or a name in a registry; empty for any other field."""
    parts = (field.annotation, *typing.get_args(field.annotation))
    markers = [*field.metadata, *(marker for part in parts for marker in getattr(part, "__metadata__", ()))]
    for marker in markers:
        if isinstance(marker, OneOf):
            return tuple(marker.names)
    literals = [part for part in parts if _is_literal(part)]
    return typing.get_args(literals[0]) if literals else ()


def _identity(value: Any) -> Any:
    if isinstance(value, Settings):
        return identity_of(value)
    if isinstance(value, list):
        return [_identity(item) for item in value]
    return {key: _identity(item) for key, item in value.items()} if isinstance(value, dict) else value


def _sections(name: str, text: str, schema: type[Settings], parent: Settings | None) -> Iterator[tuple[str, Section]]:
    """Yield the section `name` and then those nested in it.

    Args:
        name: the dotted name of the section.
        text: its description.
        schema: its class.
        parent: the instance that the enclosing section has as its default, if it differs from the defaults of `schema`.
    """
    prefix = f"{name}." if name else ""
    settings: dict[str, Setting] = {}
    inner: list[tuple[str, Section]] = []
    for field_name, field in schema.model_fields.items():
        key, description = f"{prefix}{field_name}", field.description or ""
        if kind := section_type(field):
            section_help = description or inspect.getdoc(kind) or ""
            inner += _sections(key, section_help, kind, _instance(field, parent, field_name))
        else:
            default = default_of(field) if parent is None else getattr(parent, field_name)
            settings[key] = Setting(description, default, _values(field))
    yield name, Section(text, settings)
    yield from inner


def _instance(field: FieldInfo, parent: Settings | None, name: str) -> Settings | None:
    """Return the section `name` of `parent`; None if its values are the defaults of its class.

    An instance is created only if necessary: the first instance of a class builds its validator, which would slow
    `--help` down.
    """
    if parent is not None:
        return getattr(parent, name)
    is_class_default = field.is_required() or field.default_factory is field.annotation
    return None if is_class_default else default_of(field)


_SIGNS = {annotated_types.Ge: ">=", annotated_types.Gt: ">", annotated_types.Le: "<=", annotated_types.Lt: "<"}


def _values(field: FieldInfo) -> str:
    """Describe the choices of a setting, or its range."""
    if choices := choices_of(field):
        return ", ".join(str(choice) for choice in choices)
    bounds = [part for part in field.metadata if type(part) in _SIGNS]
    return ", ".join(f"{_SIGNS[type(part)]} {getattr(part, type(part).__name__.lower()):,}" for part in bounds)


def _is_literal(kind: Any) -> bool:
    return typing.get_origin(kind) is typing.Literal


def _union_members(kind: Any) -> set[Any]:
    """Return the member types of a union; the type itself if it is not a union."""
    return set(typing.get_args(kind)) if typing.get_args(kind) and not _is_literal(kind) else {kind}


def _parse_integral(text: str) -> str | int:
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() else text
