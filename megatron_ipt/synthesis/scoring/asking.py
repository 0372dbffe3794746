"""Many prompts through an engine, with a bar on a terminal and a line now and then elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from megatron_ipt.synthesis.engines.engine import Engine, Generation, Request

logger = logging.getLogger(__name__)

_LINE_SECONDS = 10.0


def ask(engine: Engine, prompts: Sequence[Sequence[int]], max_new_tokens: int, title: str) -> list[Generation]:
    """What the engine writes after each prompt, in the order of the prompts."""
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
    return [answers[key] for key in range(len(prompts))]
