"""Progress is a bar on a terminal, on standard error, and lines elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from megatron_ipt.observability.progress import ProgressDisplay


def test_terminal_shows_a_bar_and_no_line() -> None:
    lines: list[str] = []
    drawn = io.StringIO()
    with ProgressDisplay("work", "texts", Console(file=drawn, force_terminal=True, width=100), lines.append) as display:
        display.update(3, 12, "1.5 texts/s")
    shown = drawn.getvalue()
    assert "3/12" in shown and "texts" in shown and "1.5 texts/s" in shown
    assert lines == []


def test_without_a_terminal_lines_are_printed() -> None:
    lines: list[str] = []
    console = Console(file=io.StringIO())
    with ProgressDisplay("work", "texts", console, lines.append) as display:
        display.update(3, 12, "1.5 texts/s")
        assert not display.is_due
    with ProgressDisplay("bytes", console=console, print_line=lines.append) as display:
        display.update(50.0, 200.0)
    assert lines == ["work: 3/12 texts | 1.5 texts/s", "bytes: 25%"]


def test_items_are_handed_on_in_their_order_and_the_bar_ends_full() -> None:
    drawn, lines = io.StringIO(), list[str]()
    console = Console(file=drawn, force_terminal=True, width=100)
    with ProgressDisplay("work", "texts", console, lines.append) as display:
        assert list(display.track(["a", "b"])) == ["a", "b"]
    assert "2/2" in drawn.getvalue()
    with ProgressDisplay("work", "texts", Console(file=io.StringIO()), lines.append) as display:
        assert list(display.track(["a", "b"])) == ["a", "b"]
    assert lines == []
