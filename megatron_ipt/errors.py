"""How a command fails: a user's mistake, a failure that a restart can resolve, or an internal error (anything else).

The command line (`cli/command.py`) prints the first two without a traceback and turns each into its exit code.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Problem:
    """One mistake in what the user gave.

    `field` names the place (a config key, a flag, `FILE:LINE`), `value` what stood there.
    """

    field: str
    value: object
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.field} = {self.value!s}\n    why:    {self.reason}\n    remedy: {self.remedy}"


class TemporaryFailure(Exception):
    """A failure that is no mistake of the user's, and that running the same command again can resolve.

    Slurm's jobs are requeued after it while they make progress, as after a crash.
    """

    exit_code: ClassVar[int] = os.EX_TEMPFAIL


class RankLost(TemporaryFailure):
    """Another rank has ended; each rank that notices prints it."""


class UserError(Exception):
    """A mistake in the input or the environment, which the user can fix."""

    exit_code: ClassVar[int] = 2

    def __init__(self, field: str, value: object, reason: str, remedy: str) -> None:
        self.problems: tuple[Problem, ...] = (Problem(field, value, reason, remedy),)
        super().__init__(str(self.problems[0]))

    def __reduce__(self) -> tuple[object, ...]:
        return UserError.of, (self.problems,)

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> UserError:
        """All of `problems` in one error, so that the user can fix them at once."""
        error = cls.__new__(cls)
        error.problems = tuple(problems)
        Exception.__init__(error, "\n".join(str(problem) for problem in error.problems))
        return error
