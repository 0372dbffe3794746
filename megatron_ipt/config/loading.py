"""Load settings from YAML files and dotted overrides; all problems are reported in one error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from megatron_ipt.config.settings import Settings, renamed_keys, section_type
from megatron_ipt.config.validation import problems_of
from megatron_ipt.config.yaml_values import parse_yaml
from megatron_ipt.errors import Problem, UserError

Config = TypeVar("Config", bound=Settings)


def load_config(
    schema: type[Config],
    files: str | Path | Sequence[str | Path] | None,
    overrides: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> Config:
    """Load the settings of `schema`.

    Args:
        schema: the class of the settings.
        files: YAML files; later ones override earlier ones.
        overrides: `section.field=value`, which override the files.
        defaults: values for settings that neither files nor overrides give, in place of the defaults of `schema`.

    Raises:
        UserError: listing every unknown key, wrong value and missing value.
    """
    named = [files] if isinstance(files, str | Path) else files or []
    return _build(schema, [defaults or {}, *(_read_yaml(Path(file)) for file in named)], overrides)


def load_recorded(schema: type[Config], file: Path) -> Config:
    """Read the configuration that was stored with a run or checkpoint; renamed settings are migrated.

    Raises:
        UserError: the file is missing or damaged.
    """
    values = _read_yaml(file)
    for old, new in renamed_keys(schema).items():
        _rename(values, old.split("."), new.rpartition(".")[2])
    return _build(schema, [values], [])


def config_from(schema: type[Config], given: Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Load the settings of `schema` from a mapping instead of files, as `load_config` does."""
    return _build(schema, [given], overrides)


def save_config(config: Settings, file: Path) -> None:
    """Write the resolved `config` as YAML that `load_config` reads back."""
    file.write_text(yaml.safe_dump(config.model_dump(), sort_keys=False), encoding="utf-8")


def _build(schema: type[Config], given: Sequence[Mapping[str, Any]], overrides: Sequence[str]) -> Config:
    from megatron_ipt.config.interpolation import resolve  # OmegaConf takes 0.1 s, which --help does not need

    problems: list[Problem] = []
    layers = [_normalize(schema, layer) for layer in [*given, *_parse_overrides(overrides, problems)]]
    values = _with_sections(schema, resolve(schema, layers))
    try:
        config = schema.model_validate(values)
    except ValidationError as error:
        raise UserError.of([*problems, *problems_of(schema, error)]) from None
    if problems:
        raise UserError.of(problems)
    return config


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        loaded = parse_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError("--config", file, error.strerror or str(error), "give an existing YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError("--config", file, f"not valid YAML: {error}", "correct the file") from error
    if loaded is not None and not isinstance(loaded, dict):
        raise UserError("--config", file, "the file does not contain settings", "write `name: value` lines")
    return loaded or {}


def _rename(values: Any, old: Sequence[str], new: str) -> None:
    for section in old[:-1]:
        values = values.get(section, {})
    if old[-1] in values:
        values[new] = values.pop(old[-1])


def _parse_overrides(overrides: Sequence[str], problems: list[Problem]) -> Iterator[dict[str, Any]]:
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            problems.append(Problem("override", override, "not of the form section.field=value", "add the ="))
            continue
        try:
            value = parse_yaml(text)
        except yaml.YAMLError as error:
            problems.append(Problem(key, text, f"not a YAML value: {error}", "quote the value"))
            continue
        for part in reversed(key.split(".")):
            value = {part: value}
        yield value


def _normalize(schema: type[Settings], layer: Mapping[Any, Any]) -> dict[str, Any]:
    """Convert keys to text and leave out empty sections: YAML reads one whose lines are all commented out as null."""
    normal: dict[str, Any] = {}
    for key, value in layer.items():
        field = schema.model_fields.get(str(key))
        section = None if field is None else section_type(field)
        if section is not None and value is None:
            continue
        normal[str(key)] = _normalize(section or Settings, value) if isinstance(value, Mapping) else value
    return normal


def _with_sections(schema: type[Settings], values: dict[str, Any]) -> dict[str, Any]:
    """Add an empty mapping for each required section, so that pydantic reports its missing settings by name."""
    complete = dict(values)
    for name, field in schema.model_fields.items():
        section = section_type(field)
        if section is not None and field.is_required():
            complete.setdefault(name, {})
        if section is not None and isinstance(complete.get(name), dict):
            complete[name] = _with_sections(section, complete[name])
    return complete
