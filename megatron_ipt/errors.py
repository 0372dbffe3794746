"""The ways a command fails: an error of the user, a failure that a restart can resolve, or an internal error.

The command line (`cli/command.py`) prints the first two without a traceback and exits with their code; any other
exception is an internal error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Problem:
    """One error in the input of the user.

    Attributes:
        field: a setting, a flag, or `FILE:LINE`.
        value: the value that was found there.
        reason: why it cannot be used.
        remedy: what to do about it, as an instruction.
    """

    field: str
    value: object
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.field} = {self.value!s}\n    why:    {self.reason}\n    remedy: {self.remedy}"


class TemporaryFailure(Exception):
    """A failure that is not the user's fault, and that running the same command again can resolve.

    Slurm jobs are requeued after it, as after a crash, as long as they make progress.
    """

    exit_code: ClassVar[int] = os.EX_TEMPFAIL


class RankLost(TemporaryFailure):
    """The loss of another rank; each rank that detects it prints it."""


class UserError(Exception):
    """An error in the input or the environment that the user can fix."""

    exit_code: ClassVar[int] = 2

    def __init__(self, field: str, value: object, reason: str, remedy: str) -> None:
        self.problems: tuple[Problem, ...] = (Problem(field, value, reason, remedy),)
        super().__init__(str(self.problems[0]))

    def __reduce__(self) -> tuple[object, ...]:
        return UserError.of, (self.problems,)

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> UserError:
        """Return one error with all of `problems`, so that the user can fix them at once."""
        error = cls.__new__(cls)
        error.problems = tuple(problems)
        Exception.__init__(error, "\n".join(str(problem) for problem in error.problems))
        return error


def problems_of(check: Callable[[], object]) -> tuple[Problem, ...]:
    """Call `check`, and return the problems of the UserError that it raises; none if it raises none."""
    try:
        check()
    except UserError as error:
        return error.problems
    return ()
