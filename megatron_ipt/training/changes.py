"""Differences between the configuration of a run and the one it was last started with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.config.settings import identity_of, known_keys


def changed_settings(before: PretrainConfig, now: PretrainConfig) -> list[str]:
    """The settings that differ and affect the resulting weights, each with both values.

    Where a run writes, how often it reports and saves, and its layout over ranks do not affect them.
    """
    there, here = dict(_shaping(before)), dict(_shaping(now))
    defaults = {key: setting.default for key, setting in known_keys(PretrainConfig).items()}
    pairs = {key: (there.get(key, defaults[key]), here.get(key, defaults[key])) for key in {**here, **there}}
    return [f"{key} was {was}, is {value}" for key, (was, value) in pairs.items() if not is_same(was, value)]


def is_same(there: Any, here: Any) -> bool:
    """Whether two settings are equal; a number that passed through a float32 counts as equal (1e-5 in a GGUF file)."""
    if isinstance(there, float) and isinstance(here, float):
        return math.isclose(there, here, rel_tol=1e-6)
    return bool(there == here)


def _shaping(config: PretrainConfig) -> Iterator[tuple[str, Any]]:
    for section, values in identity_of(config).items():
        for name, value in values.items():
            yield f"{section}.{name}", value
