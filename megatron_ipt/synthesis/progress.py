"""How far a synthesis has come: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from megatron_ipt.synthesis.counts import Counts

logger = logging.getLogger(__name__)

_LINE_SECONDS = 10.0


class ProgressReport:
    """Texts, pairs, tokens a second, share of texts without pairs, time left."""

    def __init__(self, title: str, total_texts: int) -> None:
        self._total, self._skipped = total_texts, 0
        self._counts = Counts()
        self._started_seconds = self._line_seconds = time.monotonic()
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("texts | {task.fields[rates]}"))
        self._bar = Progress(TextColumn(title), *columns, TimeElapsedColumn(), TimeRemainingColumn())
        self._task = self._bar.add_task("", total=total_texts, rates="")

    def __enter__(self) -> ProgressReport:
        if self._bar.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar.console.is_terminal:
            self._bar.stop()
        elif self._counts.texts:
            self._log()

    def skip(self, texts: int) -> None:
        """Count texts that a former run has done."""
        self._skipped += texts
        self._bar.update(self._task, completed=self._skipped + self._counts.texts)

    def warn(self, lines: Iterable[str]) -> None:
        """Tell of rows that were skipped."""
        for line in lines:
            logger.warning("%s", line)

    def add(self, counts: Counts) -> None:
        """Count a finished part."""
        self._counts.add(counts)
        done = self._skipped + self._counts.texts
        self._bar.update(self._task, completed=done, rates=self._rates())
        if not self._bar.console.is_terminal and time.monotonic() - self._line_seconds > _LINE_SECONDS:
            self._log()

    def _log(self) -> None:
        self._line_seconds = time.monotonic()
        counts, seconds = self._counts, self._line_seconds - self._started_seconds
        left = max(self._total - self._skipped - counts.texts, 0)
        eta = seconds / counts.texts * left
        logger.info("%d/%d texts | %s | ETA %.0f s", self._total - left, self._total, self._rates(), eta)

    def _rates(self) -> str:
        counts, seconds = self._counts, max(time.monotonic() - self._started_seconds, 1e-9)
        dropped = sum(counts.drops.values())
        share_dropped = dropped / max(counts.pairs + dropped, 1)
        share_without = counts.texts_without_pairs / max(counts.augmented_texts, 1)
        return (
            f"{counts.augmented_texts / seconds:.2f} texts/s | {counts.pairs / seconds:.2f} pairs/s"
            f" | {counts.generated_tokens / seconds:,.0f} tokens/s | {counts.pairs} pairs, {share_dropped:.0%} dropped"
            f" | {share_without:.0%} of texts without"
        )
