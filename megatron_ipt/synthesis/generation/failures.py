"""Check whether enough prompts were answered to complete a stage."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_ipt.errors import TemporaryFailure, UserError
from megatron_ipt.lm.engine import Failure


def check_failures(failures: Sequence[tuple[str, Failure]], asked: int, max_refused_share: float) -> None:
    """Check the prompts that failed.

    Args:
        failures: the id of the text and the failure of each failed prompt.
        asked: the number of texts for which prompts were sent.
        max_refused_share: the maximum share of the texts that the engine may reject.

    Raises:
        TemporaryFailure: a text has no answer yet, for a reason other than a rejection.
        UserError: the engine rejected more texts than `max_refused_share` allows.
    """
    unanswered = [(name, failure) for name, failure in failures if not failure.is_refusal]
    if unanswered:
        name, failure = unanswered[0]
        raise TemporaryFailure(
            f"{len(unanswered)} of {asked} texts have no answer yet; the first is {name} ({failure})\n"
            "run the same command again: it requests the missing ones"
        )
    if len(failures) > max_refused_share * asked:
        name, failure = failures[0]
        reason = f"the server rejected {len(failures)} of {asked} texts; the first is {name} ({failure})"
        remedy = "check engine.model, engine.max_model_len and the server, or raise this share; "
        remedy += "then run the same command again: it sends the rejected texts again"
        raise UserError("engine.endpoint.max_refused_share", max_refused_share, reason, remedy)
