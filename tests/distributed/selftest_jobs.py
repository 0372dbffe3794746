"""The self-test as a job for the worker pool."""

from __future__ import annotations

import contextlib
import io


def selftest(*arguments: str) -> tuple[int, str]:
    """The exit code and the output of `megatron-ipt selftest`."""
    from megatron_ipt.cli.selftest import main

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            code = main(list(arguments))
        except SystemExit as end:
            assert isinstance(end.code, int)
            code = end.code
    return code, printed.getvalue()
