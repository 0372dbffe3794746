"""Differences between the current configuration of a run and the one it was last started with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.config.settings import identity_of, known_keys


def changed_settings(before: PretrainConfig, now: PretrainConfig) -> list[str]:
    """Return the settings that differ and affect the resulting weights, each with both values.

    Paths, log and save intervals, and the parallel layout do not affect them.
    """
    old, new = dict(_identity(before)), dict(_identity(now))
    defaults = {key: setting.default for key, setting in known_keys(PretrainConfig).items()}
    pairs = {key: (old.get(key, defaults[key]), new.get(key, defaults[key])) for key in {**new, **old}}
    return [f"{key} was {was}, is {value}" for key, (was, value) in pairs.items() if not is_same(was, value)]


def is_same(old: Any, new: Any) -> bool:
    """Return whether two settings are equal; numbers are compared at float32 precision, which GGUF files have."""
    if isinstance(old, float) and isinstance(new, float):
        return math.isclose(old, new, rel_tol=1e-6)
    return bool(old == new)


def _identity(config: PretrainConfig) -> Iterator[tuple[str, Any]]:
    for section, values in identity_of(config).items():
        for name, value in values.items():
            yield f"{section}.{name}", value
