"""The limit of open files: a blend keeps several files of each dataset mapped for the whole run."""

from __future__ import annotations

import resource
from pathlib import Path

from megatron_ipt.errors import UserError

_RESERVED_FILES = 64  # libraries, sockets, metrics, the checkpoint being written


def raise_open_files_limit(count: int, field: str, value: object) -> None:
    """Raise the soft limit of open files of this process to the hard limit, and check that it suffices.

    Args:
        count: the number of files that will be opened in addition to those already open.
        field: the setting that opens them, for the message.
        value: its value, for the message.

    Raises:
        UserError: the hard limit is too low.
    """
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    needed = count + sum(1 for _ in Path("/proc/self/fd").iterdir()) + _RESERVED_FILES
    if needed > hard_limit:
        reason = f"the run needs about {needed:,} open files, but the limit of a process is {hard_limit:,}"
        remedy = "raise the hard limit (ulimit -Hn; for a service, LimitNOFILE), or use fewer datasets"
        raise UserError(field, value, reason, remedy)
