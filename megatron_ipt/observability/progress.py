"""Display of progress: a bar on a terminal, lines at intervals elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

logger = logging.getLogger(__name__)
Item = TypeVar("Item")

_BAR_SECONDS = 0.5
_LINE_SECONDS = 10.0


class ProgressDisplay:
    """Shows the progress of a task, between `start` and `stop` or as a context manager.

    The bar is drawn on standard error, so that it does not mix with results on standard output.
    """

    def __init__(
        self,
        title: str,
        unit: str | None = None,
        console: Console | None = None,
        print_line: Callable[[str], None] = logger.info,
    ) -> None:
        """Prepare the display; nothing is drawn yet.

        Args:
            title: the name of the task.
            unit: the unit of the counts; None shows percent instead of counts.
            console: the console to draw on; standard error if not given.
            print_line: called with each line if there is no terminal.
        """
        self._title, self._unit, self._print_line = title, unit, print_line
        amounts = (TaskProgressColumn(),) if unit is None else (MofNCompleteColumn(), TextColumn(unit))
        self._live = Live(console=console or Console(stderr=True), auto_refresh=False)
        self._bar = Progress(TextColumn("{task.description}"), BarColumn(), *amounts, TimeRemainingColumn())
        self._task = self._bar.add_task(title, total=None)
        self._shown_seconds = time.monotonic()

    def __enter__(self) -> ProgressDisplay:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Draw the bar, if there is a terminal."""
        if self.is_terminal:
            self._live.start()

    def stop(self) -> None:
        """Stop drawing; the last state of the bar remains visible."""
        self._live.stop()

    @property
    def is_terminal(self) -> bool:
        """Whether a bar is drawn rather than lines."""
        return self._live.console.is_terminal

    @property
    def interval_seconds(self) -> float:
        """The minimum time between updates."""
        return _BAR_SECONDS if self.is_terminal else _LINE_SECONDS

    @property
    def is_due(self) -> bool:
        """Whether that time has passed since the last update."""
        return time.monotonic() - self._shown_seconds >= self.interval_seconds

    def update(self, completed: float, total: float, details: str = "") -> None:
        """Show that `completed` of `total` is done, with `details` such as rates."""
        self._shown_seconds = time.monotonic()
        if self.is_terminal:
            self._bar.update(self._task, completed=completed, total=total)
            self._live.update(Group(self._bar, Text(details)) if details else self._bar, refresh=True)
        else:
            amount = f"{completed / max(total, 1):.0%}" if self._unit is None else f"{completed}/{total} {self._unit}"
            self._print_line(f"{self._title}: {amount}" + (f" | {details}" if details else ""))

    def complete(self, total: float, details: str = "") -> None:
        """Fill the bar; without a terminal, print nothing, because results follow."""
        if self.is_terminal:
            self.update(total, total, details)

    def track(self, items: Sequence[Item]) -> Iterator[Item]:
        """Yield `items`, and show how many of them have been processed."""
        for number, item in enumerate(items, start=1):
            yield item
            if self.is_due:
                self.update(number, len(items))
        self.complete(len(items))
