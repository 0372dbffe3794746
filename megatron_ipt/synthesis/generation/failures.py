"""Whether enough of the prompts were answered for a stage to be complete."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_ipt.errors import TemporaryFailure, UserError
from megatron_ipt.lm.engine import Failure


def check_failures(failures: Sequence[tuple[str, Failure]], asked: int, max_refused_share: float) -> None:
    """Hold the failed prompts, each with the id of its text, against the number of texts `asked` about.

    Raises:
        TemporaryFailure: one of them has yet to be answered.
        UserError: the engine refused more of them than `max_refused_share`.
    """
    unanswered = [(name, failure) for name, failure in failures if not failure.is_refusal]
    if unanswered:
        name, failure = unanswered[0]
        raise TemporaryFailure(
            f"{len(unanswered)} of {asked} texts have no answer yet; the first is {name} ({failure})\n"
            "run the same command again: it asks for them"
        )
    if len(failures) > max_refused_share * asked:
        name, failure = failures[0]
        reason = f"the server refused {len(failures)} of {asked} texts; the first is {name} ({failure})"
        remedy = "check engine.model, engine.max_model_len and the server, or raise this share; "
        remedy += "then run the same command again: it asks for the refused texts"
        raise UserError("engine.endpoint.max_refused_share", max_refused_share, reason, remedy)
