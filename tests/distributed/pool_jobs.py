"""Jobs that fail on one rank while the others wait for it."""

from __future__ import annotations

import os
import subprocess
import threading
import time


def raising(rank: int) -> None:
    if int(os.environ["RANK"]) == rank:
        raise ValueError("the cause")
    time.sleep(60)


def exiting(rank: int) -> None:
    """One rank exits, and leaves a process that has inherited its connection; the others then lose contact with it."""
    if int(os.environ["RANK"]) == rank:
        subprocess.Popen(["sleep", "10"], close_fds=False)
        os._exit(7)
    time.sleep(1.5)
    raise ConnectionError("the consequence")


def exiting_alone() -> None:
    """The first rank exits and leaves no process."""
    if os.environ["RANK"] == "0":
        os._exit(7)
    time.sleep(60)


def exiting_later() -> None:
    """Return, and exit a moment later."""
    threading.Timer(0.5, os._exit, (7,)).start()


def adding(first: int, second: int) -> int:
    return first + second
