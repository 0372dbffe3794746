"""Many prompts through an engine, with a bar on a terminal and a line now and then elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from megatron_ipt.synthesis.engines.engine import Engine, Generation, Request
from megatron_ipt.synthesis.failures import check_failures

logger = logging.getLogger(__name__)

_LINE_SECONDS = 10.0


def ask(
    engine: Engine, prompts: Sequence[Sequence[int]], max_new_tokens: int, title: str, max_refused_share: float
) -> list[Generation]:
    """What the engine writes after each prompt, in the order of the prompts.

    Raises:
        UserError: the engine refused more than `max_refused_share` of the prompts.
        TemporaryFailure: it has not answered one of them.
    """
    answers: dict[int, Generation] = {}
    submitted, line_seconds = 0, time.monotonic()
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("prompts"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns) as bar:
        task = bar.add_task(title, total=len(prompts))
        while len(answers) < len(prompts):
            while submitted < len(prompts) and submitted - len(answers) < engine.capacity:
                engine.submit(Request(submitted, prompts[submitted], max_new_tokens))
                submitted += 1
            answers.update((generation.key, generation) for generation in engine.collect())
            bar.update(task, completed=len(answers))
            if not bar.console.is_terminal and time.monotonic() - line_seconds > _LINE_SECONDS:
                logger.info("%s: %d/%d prompts", title, len(answers), len(prompts))
                line_seconds = time.monotonic()
    found = [answers[key] for key in range(len(prompts))]
    failures = [(f"prompt {one.key + 1}", one.failure) for one in found if one.failure is not None]
    check_failures(failures, len(prompts), max_refused_share)
    return found
