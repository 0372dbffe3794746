"""Callbacks that other packages provide, by entry point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from megatron_ipt.config.registry import Registry
from megatron_ipt.errors import Problem, UserError

if TYPE_CHECKING:  # the preflight imports this module without torch
    from megatron_ipt.training.callbacks import Callback

CALLBACKS = Registry("megatron_ipt.callbacks", {})


def find_callback_problems(names: Sequence[str]) -> list[Problem]:
    """Find names that no installed package provides."""
    return CALLBACKS.find_problems("training.callbacks", names)


def load_callbacks(names: Sequence[str]) -> list[Callback]:
    """Create the callbacks called `names`; an entry point refers to a class or function without arguments.

    Raises:
        UserError: an entry point returns something else than a callback.
    """
    from megatron_ipt.training.callbacks import Callback

    callbacks = []
    for name in names:
        callback = CALLBACKS.load(name)()
        if not isinstance(callback, Callback):
            reason = f"{CALLBACKS[name]} returns a {type(callback).__name__}"
            raise UserError("training.callbacks", name, reason, "return a megatron_ipt.training.callbacks.Callback")
        callbacks.append(callback)
    return callbacks
