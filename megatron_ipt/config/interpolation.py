"""Resolve `${...}` in a configuration; settings that were not given are resolved to their defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic_core import PydanticUndefined

from megatron_ipt.config.settings import Settings, default_of, section_type
from megatron_ipt.errors import UserError


def resolve(schema: type[Settings], layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge `layers` and resolve OmegaConf's interpolations.

    Args:
        schema: the settings, whose defaults interpolations can refer to.
        layers: the given settings; later layers override earlier ones.

    Returns:
        The settings of `layers` alone, nested as there, without the defaults.

    Raises:
        UserError: an interpolation is malformed or names nothing.
    """
    try:
        given = OmegaConf.merge(*(OmegaConf.create(dict(layer)) for layer in layers))
        assert isinstance(given, DictConfig)
        whole = OmegaConf.merge(_defaults(schema, given), given)
        OmegaConf.resolve(whole)
        values = OmegaConf.to_container(whole)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise UserError(error.full_key or "--config", "${...}", reason, "correct the interpolation") from error
    assert isinstance(values, dict)
    return _select(OmegaConf.to_container(given), values)


def _defaults(schema: type[Settings], given: Any) -> dict[str, Any]:
    """Return the defaults of `schema`, including those that settings in `given`, such as a preset, imply."""
    known = given if isinstance(given, DictConfig) else {}
    values: dict[str, Any] = {}
    for name, field in schema.model_fields.items():
        if section := section_type(field):
            values[name] = _defaults(section, known.get(name))
        elif (default := default_of(field)) is not PydanticUndefined:
            values[name] = default
    return values | dict(schema.implied(known))


def _select(given: Any, values: Any) -> Any:
    """Select from `values` the keys that `given` has, at every level."""
    if not isinstance(given, dict):
        return values
    return {key: _select(value, values[key]) for key, value in given.items() if values[key] != "???"}
