"""How many files a process may have open: a blend maps several of each dataset for as long as a run lasts."""

from __future__ import annotations

import resource
from pathlib import Path

from megatron_ipt.errors import UserError

_FILES_FOR_OTHER_THINGS = 64  # libraries, sockets, metrics, the checkpoint being written


def allow_open_files(count: int, field: str, value: object) -> None:
    """Raise this process's limit of open files as far as it may, for `count` more that `field` = `value` opens.

    Raises:
        UserError: even that is too low.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    needed = count + sum(1 for _ in Path("/proc/self/fd").iterdir()) + _FILES_FOR_OTHER_THINGS
    if needed > most:
        reason = f"a run keeps some {needed:,} files open for them, and a process may have {most:,} here"
        remedy = "raise the hard limit (ulimit -Hn; for a service, LimitNOFILE), or name fewer datasets"
        raise UserError(field, value, reason, remedy)
