"""Convert errors of the operating system (a full disk, missing permissions, ...) to errors with a path and a remedy.

Code that reads and writes files does not catch OSErrors; the command line explains them, here, for all stages.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megatron_ipt.errors import TemporaryFailure, UserError

_TEMPORARY = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there, or ask for a larger quota",
    errno.EIO: "check the disk or the network file system",
    errno.ESTALE: "check the network file system",
    errno.ENOMEM: "free memory, or use fewer workers",
    errno.EAGAIN: "free processes or memory, or use fewer workers",
    errno.ENFILE: "close other programs on this machine, or raise the system's limit fs.file-max",
    errno.ETIMEDOUT: "check the network",
    errno.ECONNREFUSED: "check that the other side is running",
    errno.ECONNRESET: "check the network",
    errno.ECONNABORTED: "check the network",
    errno.EHOSTUNREACH: "check the network",
    errno.ENETUNREACH: "check the network",
    errno.ENETDOWN: "check the network",
}
"""Remedies after which running the same command again can help."""
_PERMANENT = {
    errno.EACCES: "check its owner and permissions, or give another path",
    errno.EPERM: "check its owner and permissions, or give another path",
    errno.EROFS: "mount the file system writable, or give another path",
    errno.ENOENT: "check the path, and that no other program removes it",
    errno.ENOTDIR: "a part of this path is a file: move it away, or give another path",
    errno.EISDIR: "this is a folder, not a file: move it away, or give another path",
    errno.EEXIST: "move it away, or give another path",
    errno.ENOTEMPTY: "move it away, or give another path",
    errno.ELOOP: "remove the loop of symbolic links",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.EFBIG: "raise the limit on the size of files: ulimit -f unlimited",
    errno.EMFILE: "raise the limit on open files: ulimit -n 65536",
    errno.EXDEV: "give a path on the same file system",
}
"""Remedies for errors after which the same command would fail again."""
_EXPLAINED = _TEMPORARY | _PERMANENT
_NUMPY_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
"""The whole text of numpy's error (2.x, no errno) for an incomplete write, nearly always caused by a full disk."""
_NUMBER = re.compile(r"(?:\(os error |\[[Ee]rrno )(\d+)[)\]]")


def errno_of(error: BaseException) -> int | None:
    """Return the errno of the system error that `error` reports; None if it reports none for which a remedy is known.

    Libraries in Rust, and errors passed on from other processes, give it in their text: "(os error 28)", "[Errno 28]".
    Only the first line of the text counts: a traceback after it may contain errors that were handled.
    """
    number = error.errno if isinstance(error, OSError) else None
    text = str(error).partition("\n")[0]
    if number is None and (found := _NUMBER.search(text)):
        number = int(found[1])
    if number is None and isinstance(error, OSError) and _NUMPY_SHORT_WRITE.fullmatch(text):
        number = errno.ENOSPC
    return number if number in _EXPLAINED else None


def explain(error: Exception, *, default_path: Path | str | None = None) -> UserError | TemporaryFailure | None:
    """Return the failure that `error` is or was caused by; None if it is an internal error.

    A UserError that was raised from a temporary system error is temporary as well.

    Args:
        error: the exception.
        default_path: the path to report if `error` names no file.
    """
    failure: UserError | TemporaryFailure
    if isinstance(error, TemporaryFailure):
        return error
    if isinstance(error, UserError):
        if error.__cause__ is None or errno_of(error.__cause__) not in _TEMPORARY:
            return error
        failure = TemporaryFailure(f"{error}\nrun the same command again once that is done")
    elif (number := errno_of(error)) is not None:
        failure = _failure(error, number, default_path)
    else:
        return None
    failure.__cause__ = error
    return failure


def _failure(error: Exception, number: int, default_path: Path | str | None) -> UserError | TemporaryFailure:
    named = error.filename if isinstance(error, OSError) else None
    where = os.fsdecode(named) if isinstance(named, str | bytes) else default_path
    reason, remedy = os.strerror(number), f"{_EXPLAINED[number]}, then run the same command again"
    if where is None:
        reason = f"{reason} ({error})"
    if number in _TEMPORARY:
        return TemporaryFailure(f"{where or 'system error'}: {reason}\n{remedy}")
    return UserError("file", where or "(not known)", reason, remedy)


@contextmanager
def naming(file: Path, temporary: Path | None = None) -> Iterator[None]:
    """Set the path of OSErrors that name no file (as those of writes do), or name the `temporary` file, to `file`."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and (error.filename is None or error.filename == str(temporary)):
            error.filename = str(file)
        raise
