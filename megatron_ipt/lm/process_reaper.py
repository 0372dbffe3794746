"""A process that kills the descendants of another when that one dies, even by SIGKILL.

vLLM's engine outlives the process that started it and keeps the GPU's memory (vllm-project/vllm issue 55510), so that
a run that resumes would find none.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress

import psutil

_POLL_SECONDS = 0.5


def start_process_reaper() -> subprocess.Popen[bytes]:
    """Start a reaper for this process; terminate the one that is returned when the descendants may live on."""
    return subprocess.Popen([sys.executable, "-m", __name__, str(psutil.Process().pid)], start_new_session=True)


def _watch(parent: psutil.Process) -> None:
    descendants: set[psutil.Process] = set()
    while _is_alive(parent):
        descendants.update(_children(parent))
        time.sleep(_POLL_SECONDS)
    latest = {child for process in descendants for child in _children(process)}
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
