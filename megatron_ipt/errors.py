"""The one family of errors a user can cause: what was wrong, where, why, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing wrong with what the user gave.

    `field` names the place (a config key, a flag, `FILE:LINE`), `value` what stood there.
    """

    field: str
    value: object
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.field} = {self.value!s}\n    why:    {self.reason}\n    remedy: {self.remedy}"


class TemporaryFailure(Exception):
    """A run that has to leave here and now, through no mistake, and goes on when the same command is started again.

    The command line prints it without a traceback and exits with 75 (EX_TEMPFAIL): put the job back into the queue.
    """


class RankLost(Exception):
    """Another rank has gone; the command line prints it without a traceback and exits with 1."""


class UserError(Exception):
    """Input that the user can mend; the command line prints it without a traceback and exits with 2."""

    def __init__(self, field: str, value: object, reason: str, remedy: str) -> None:
        self.problems: tuple[Problem, ...] = (Problem(field, value, reason, remedy),)
        super().__init__(str(self.problems[0]))

    def __reduce__(self) -> tuple[object, ...]:
        return UserError.of, (self.problems,)

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> UserError:
        """All of `problems` in one error, so that the user mends them in one go."""
        error = cls.__new__(cls)
        error.problems = tuple(problems)
        Exception.__init__(error, "\n".join(str(problem) for problem in error.problems))
        return error
