"""Progress of tokenization: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console

from megatron_ipt.corpus.compression import is_compressed
from megatron_ipt.observability.progress import ProgressDisplay

_INITIAL_RATIO_COMPRESSED = 0.4  # bytes on disk per byte of text, until a file is finished
_INITIAL_RATIO_PLAIN = 1.0


class PreprocessProgress:
    """Documents, UTF-8 bytes and tokens so far, their rates, and the time left.

    The fraction done is measured in bytes on disk: exact after each file, estimated within one.
    """

    def __init__(self, files: Sequence[Path], log_interval: int, console: Console) -> None:
        self.documents = self.text_bytes = self.tokens = 0
        self._sizes = {file: file.stat().st_size for file in files}
        self._log_interval = log_interval
        self._file, self._file_text_bytes, self._finished_bytes = files[0], 0, 0
        self._started_seconds = time.monotonic()
        self._display = ProgressDisplay(
            "tokenizing", console=console, print_line=lambda line: console.print(line, soft_wrap=True)
        )

    def __enter__(self) -> PreprocessProgress:
        self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._display.complete(sum(self._sizes.values()), self.rates())
        self._display.stop()

    def advance(self, file: Path, documents: int, text_bytes: int, tokens: int) -> None:
        """Count a batch whose last document belongs to `file`."""
        lines_before = self.documents // self._log_interval
        self.documents += documents
        self.text_bytes += text_bytes
        self.tokens += tokens
        if file != self._file:
            names = list(self._sizes)
            self._finished_bytes = sum(self._sizes[name] for name in names[: names.index(file)])
            self._file, self._file_text_bytes = file, 0
        self._file_text_bytes += text_bytes
        is_due = self._display.is_due
        if not self._display.is_terminal:
            is_due = self.documents // self._log_interval > lines_before
        if is_due:
            details = f"{self.rates()}, about {self._seconds_left():,.0f} s left"
            self._display.update(self._done_bytes(), sum(self._sizes.values()), details)

    def rates(self) -> str:
        """Format the counts so far and per second."""
        seconds = max(self.elapsed_seconds, 1e-9)
        return (
            f"{self.documents:,} documents ({self.documents / seconds:,.0f}/s, "
            f"{self.text_bytes / seconds / 1e6:,.1f} MB/s, {self.tokens / seconds:,.0f} tokens/s)"
        )

    @property
    def elapsed_seconds(self) -> float:
        """Wall-clock time since the start."""
        return time.monotonic() - self._started_seconds

    def _done_bytes(self) -> float:
        finished_text_bytes = self.text_bytes - self._file_text_bytes
        if self._finished_bytes and finished_text_bytes:
            ratio = self._finished_bytes / finished_text_bytes
        else:
            ratio = _INITIAL_RATIO_COMPRESSED if is_compressed(self._file) else _INITIAL_RATIO_PLAIN
        return self._finished_bytes + min(self._sizes[self._file], self._file_text_bytes * ratio)

    def _seconds_left(self) -> float:
        done = self._done_bytes()
        return self.elapsed_seconds * (sum(self._sizes.values()) - done) / max(done, 1.0)
