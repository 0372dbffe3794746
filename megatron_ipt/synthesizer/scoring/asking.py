"""Run many prompts through an engine and show the progress."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_ipt.lm.engine import Completion, LMEngine, Request
from megatron_ipt.observability.progress import ProgressDisplay
from megatron_ipt.synthesis.generation.failures import check_failures


def ask(
    engine: LMEngine, prompts: Sequence[Sequence[int]], max_new_tokens: int, title: str, max_refused_share: float
) -> list[Completion]:
    """Return what the engine writes after each prompt, in the order of the prompts.

    Raises:
        UserError: the engine refused more than `max_refused_share` of the prompts.
        TemporaryFailure: it has not answered one of them.
    """
    answers: dict[int, Completion] = {}
    submitted = 0
    with ProgressDisplay(title, "prompts") as display:
        while len(answers) < len(prompts):
            while submitted < len(prompts) and submitted - len(answers) < engine.capacity:
                engine.submit(Request(submitted, prompts[submitted], max_new_tokens))
                submitted += 1
            answers.update((completion.key, completion) for completion in engine.collect())
            if display.is_due:
                display.update(len(answers), len(prompts))
        display.complete(len(prompts))
    found = [answers[key] for key in range(len(prompts))]
    failures = [(f"prompt {one.key + 1}", one.failure) for one in found if one.failure is not None]
    check_failures(failures, len(prompts), max_refused_share)
    return found
