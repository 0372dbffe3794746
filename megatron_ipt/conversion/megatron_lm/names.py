"""Errors for checkpoints whose tensors are not those of the model that their arguments describe."""

from __future__ import annotations

from pathlib import Path

from megatron_ipt.conversion.tensor_checks import first_few
from megatron_ipt.errors import UserError

_FORMER = "language_model"


def check_names(expected: set[str], found: set[str], checkpoint: Path) -> None:
    """Check that the tensors of `checkpoint` are those of the model.

    Raises:
        UserError: some are missing or unknown.
    """
    if any(name.startswith(_FORMER) for name in found):
        raise UserError(
            "input",
            checkpoint,
            "it holds a model of Megatron-LM's former classes, from before megatron-core",
            "convert it with Megatron-LM's tools/checkpoint/convert.py to a model of megatron-core",
        )
    different = [f"no {name}" for name in sorted(expected - found)]
    different += [f"unknown {name}" for name in sorted(found - expected)]
    if different:
        raise misfit(checkpoint, first_few(different))


def misfit(checkpoint: Path, what: str) -> UserError:
    """The error that tensors do not fit the arguments; `what` names them."""
    reason = f"its tensors are not those of the model in its arguments: {what}"
    return UserError(
        "input", checkpoint, reason, "use a checkpoint that Megatron-LM saved, of a model that is supported"
    )
