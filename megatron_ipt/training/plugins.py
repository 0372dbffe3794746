"""Callbacks that other packages provide, by entry point."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from megatron_ipt.errors import Problem, UserError

if TYPE_CHECKING:  # the preflight imports this module without torch
    from megatron_ipt.training.callbacks import Callback

GROUP = "megatron_ipt.callbacks"


def find_callback_problems(names: Sequence[str]) -> list[Problem]:
    """Names that no installed package provides."""
    provided = sorted(_provided())
    remedy = f"one of {', '.join(provided)}" if provided else f"install a package with an entry point in {GROUP}"
    return [
        Problem("training.callbacks", name, "no installed package provides it", remedy)
        for name in names
        if name not in provided
    ]


def load_callbacks(names: Sequence[str]) -> list[Callback]:
    """Make the callbacks called `names`: an entry point leads to a class, or a function, without arguments."""
    from megatron_ipt.training.callbacks import Callback

    callbacks = []
    for name in names:
        callback = _provided()[name].load()()
        if not isinstance(callback, Callback):
            reason = f"{_provided()[name].value} returns a {type(callback).__name__}"
            raise UserError("training.callbacks", name, reason, "return a megatron_ipt.training.callbacks.Callback")
        callbacks.append(callback)
    return callbacks


def _provided() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
