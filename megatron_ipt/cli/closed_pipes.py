"""Output into a pipe whose reader has gone, as in `megatron-ipt plan --json | head -1`.

SIGPIPE ends most Unix programs at their next write. A stage must not be ended that way in the middle of its work, and
must not lose the exit code of a failure because the `tee` of `2>&1 | tee LOG` was ended before it. Output that nobody
reads is therefore discarded and the work completed; the exit code then shows that the results were not read.
"""

from __future__ import annotations

import io
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

EXIT_CLOSED_PIPE = 128 + signal.SIGPIPE


def run_without_reader(run: Callable[[], int]) -> int:
    """Call `run`, discarding what is printed after the reader of standard output or standard error has gone.

    Returns:
        The exit code of `run`; 141, as for a program that SIGPIPE ended, if that is 0 and standard output was not read
        to its end.
    """
    with _discarding("stdout") as output, _discarding("stderr"):
        try:
            code = run()
        except SystemExit as end:  # argparse's, after --help
            if end.code or not _is_unread(output):
                raise
            code = 0
        return EXIT_CLOSED_PIPE if code == 0 and _is_unread(output) else code


def _is_unread(output: _PipeWriter | None) -> bool:
    sys.stdout.flush()
    return output is not None and output.has_lost_reader


class _PipeWriter(io.FileIO):
    """A file descriptor that is replaced by /dev/null once nobody reads it, for native code and child processes too."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.has_lost_reader = False

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            self.has_lost_reader = True
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return super().write(data)


@contextmanager
def _discarding(name: str) -> Iterator[_PipeWriter | None]:
    """Replace a stream of `sys` that is a pipe by one that can lose its reader; yields None for any other stream."""
    stream = getattr(sys, name)
    if stream is None or stream is not getattr(sys, f"__{name}__") or not _is_pipe(stream.fileno()):
        yield None
        return
    stream.flush()
    writer = _PipeWriter(stream.fileno())
    text = io.TextIOWrapper(
        writer if stream.write_through else io.BufferedWriter(writer),  # unbuffered with PYTHONUNBUFFERED
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
    setattr(sys, name, text)
    try:
        yield writer
    finally:
        text.flush()
        setattr(sys, name, stream)


def _is_pipe(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
