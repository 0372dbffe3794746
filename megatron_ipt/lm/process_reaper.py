"""A process that kills the descendants of another process once that one has died, even by SIGKILL.

vLLM's engine process outlives the process that started it and keeps the memory of the GPU (vllm-project/vllm issue
55510), which a resumed run would lack.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress

import psutil

_POLL_SECONDS = 0.5


def start_process_reaper() -> subprocess.Popen[bytes]:
    """Start a reaper of this process's descendants; terminate it once they have been shut down regularly."""
    return subprocess.Popen([sys.executable, "-m", __name__, str(psutil.Process().pid)], start_new_session=True)


def _watch(parent: psutil.Process) -> None:
    descendants: set[psutil.Process] = set()
    while _is_alive(parent):
        descendants.update(_children(parent))
        time.sleep(_POLL_SECONDS)
    latest = {child for process in descendants for child in _children(process)}  # started since the last poll
    for process in (descendants | latest) - {psutil.Process()}:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


if __name__ == "__main__":
    _watch(psutil.Process(int(sys.argv[1])))
