"""What differs between the configuration of a run and the one it was last started with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from megatron_ipt.config.loading import config_to_dict
from megatron_ipt.config.pretrain import PretrainConfig

_SHAPING_SECTIONS = ("model", "data", "precision", "training", "optimizer", "schedule")
_FREE_TO_CHANGE = (
    "data.blend",  # the stage compares contents and weights: the files may have moved
    "data.index_cache",
    "data.tokenizer",
    "model.preset",
    "training.eval_interval",
    "training.eval_iters",
    "training.exit_interval",
    "training.log_interval",
    "training.micro_batch_size",
)


def changed_settings(before: PretrainConfig, now: PretrainConfig) -> list[str]:
    """The settings that differ and have a part in the weights that come out, each with both values.

    Where a run writes, how often it reports and saves, and how it is laid out over ranks have none.
    """
    there, here = dict(_shaping(before)), dict(_shaping(now))
    return [f"{key} was {there[key]}, is {here[key]}" for key in here if not is_same(there[key], here[key])]


def is_same(there: Any, here: Any) -> bool:
    """Whether two settings are equal; a number that passed through a float32 counts as equal (1e-5 in a GGUF file)."""
    if isinstance(there, float) and isinstance(here, float):
        return math.isclose(there, here, rel_tol=1e-6)
    return bool(there == here)


def _shaping(config: PretrainConfig) -> Iterator[tuple[str, Any]]:
    values = config_to_dict(config)
    for section in _SHAPING_SECTIONS:
        for name, value in values[section].items():
            if (key := f"{section}.{name}") not in _FREE_TO_CHANGE:
                yield key, value
