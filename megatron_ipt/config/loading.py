"""YAML files and dotted overrides become a frozen dataclass, or one error that lists every problem."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from megatron_ipt.config.model_presets import MODEL_PRESETS
from megatron_ipt.config.setting import Section, Setting, default_of
from megatron_ipt.config.yaml_values import parse_yaml
from megatron_ipt.errors import Problem, UserError

Config = TypeVar("Config")


def load_config(
    schema: type[Config],
    files: str | Path | Sequence[str | Path] | None,
    overrides: Sequence[str] = (),
    below: Mapping[str, Any] | None = None,
) -> Config:
    """The `schema` filled from YAML `files`, a later one winning, and then `section.field=value` overrides.

    Values of `below` hold where neither speaks.

    Raises:
        UserError: listing every unknown key (with the nearest known one), wrong type and missing value.
    """
    named = [files] if isinstance(files, str | Path) else files or []
    return _merge(schema, [below or {}, *(_read_yaml(Path(file)) for file in named)], overrides)


def config_from(schema: type[Config], given: Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """As `load_config`, from a mapping that is already in memory."""
    return _merge(schema, [given], overrides)


def _merge(schema: type[Config], given: Sequence[Mapping[str, Any]], overrides: Sequence[str]) -> Config:
    problems: list[Problem] = []
    merged = OmegaConf.structured(schema)
    layers = [*given, *_parsed_overrides(overrides, problems)]
    for name in reversed([preset for layer in layers if (preset := _named_preset(layer)) is not None]):
        if name not in MODEL_PRESETS:
            problems.append(_unknown("model.preset", name, MODEL_PRESETS))
        else:
            merged = OmegaConf.merge(merged, {"model": _preset_values(name)})
        break
    for layer in layers:
        for path, value in _leaves(layer):
            try:
                merged = OmegaConf.merge(merged, _nested(path, value))
            except OmegaConfBaseException as error:
                problems.append(_problem(schema, path, value, error))
    problems += [
        Problem(key, "(not set)", "this value is required", f"set {key} in the file or as {key}=VALUE")
        for key in sorted(OmegaConf.missing_keys(merged))
    ]
    if problems:
        raise UserError.of(problems)
    return OmegaConf.to_object(merged)


def config_to_dict(config: Any) -> dict[str, Any]:
    """The resolved `config` as plain values, as it is stored with a run."""
    return dataclasses.asdict(config)


def save_config(config: Any, file: Path) -> None:
    """Write the resolved `config` as YAML that `load_config` reads back."""
    file.write_text(yaml.safe_dump(config_to_dict(config), sort_keys=False), encoding="utf-8")


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        loaded = parse_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError("--config", file, error.strerror or str(error), "give an existing YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError("--config", file, f"not valid YAML: {error}", "mend the file") from error
    if loaded is not None and not isinstance(loaded, dict):
        raise UserError("--config", file, "the file holds no section names", "write `field: value` lines")
    return loaded or {}


def _parsed_overrides(overrides: Sequence[str], problems: list[Problem]) -> Iterator[dict[str, Any]]:
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            problems.append(Problem("override", override, "not of the form section.field=value", "add the ="))
            continue
        try:
            yield _nested(key.split("."), parse_yaml(text))
        except yaml.YAMLError as error:
            problems.append(Problem(key, text, f"not a YAML value: {error}", "quote the value"))


def _named_preset(layer: Mapping[str, Any]) -> str | None:
    model = layer.get("model")
    return model.get("preset") if isinstance(model, Mapping) else None


def _preset_values(name: str) -> dict[str, Any]:
    return {**dataclasses.asdict(MODEL_PRESETS[name]), "preset": name}


def _leaves(layer: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[Sequence[str], Any]]:
    """The values of `layer` with their paths; a list is one value."""
    for key, value in layer.items():
        here = (*path, str(key))
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, here)
        else:
            yield here, value


def _nested(path: Sequence[str], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


def _problem(schema: type[Any], path: Sequence[str], value: Any, error: OmegaConfBaseException) -> Problem:
    key = ".".join(path)
    known = known_keys(schema)
    if key not in known and not any(name.startswith(f"{key}.") or key.startswith(f"{name}.") for name in known):
        return _unknown(key, value, known)
    return Problem(key, value, str(error).splitlines()[0], f"see --help for what {key} takes")


def _unknown(field: str, value: Any, known: Mapping[str, Any] | Sequence[str]) -> Problem:
    searched = str(value) if field == "model.preset" else field
    nearest = difflib.get_close_matches(searched, list(known), n=1, cutoff=0.0)
    kind = "no preset of that name" if field == "model.preset" else "no setting of that name"
    return Problem(field, value, kind, f"did you mean {nearest[0]}?")


def known_keys(schema: type[Any]) -> dict[str, Setting]:
    """Every setting of `schema` by its dotted key."""
    return {key: one for section in sections_of(schema).values() for key, one in section.settings.items()}


def sections_of(schema: type[Any]) -> dict[str, Section]:
    """The sections of `schema` by their dotted names, its own settings first, under the empty name."""
    return dict(_sections("", inspect.getdoc(schema) or "", schema, dataclasses.MISSING))


def _sections(name: str, text: str, schema: type[Any], defaults: Any) -> Iterator[tuple[str, Section]]:
    """The section `name` and those inside it.

    `defaults` is the instance that the section around it puts there, whose values need not be those of its class.
    """
    prefix = f"{name}." if name else ""
    hints = typing.get_type_hints(schema)
    settings: dict[str, Setting] = {}
    inner: list[tuple[str, Section]] = []
    for field in dataclasses.fields(schema):
        key, kind = f"{prefix}{field.name}", hints[field.name]
        default = default_of(field) if defaults is dataclasses.MISSING else getattr(defaults, field.name)
        if dataclasses.is_dataclass(kind):
            about = field.metadata["help"] or inspect.getdoc(kind) or ""
            inner += _sections(key, about, typing.cast("type[Any]", kind), default)
        else:
            settings[key] = Setting(field.metadata["help"], default)
    yield name, Section(text, settings)
    yield from inner
