"""Ends the processes that this one has started when it dies, even by SIGKILL.

vLLM's engine outlives the process that started it and keeps the GPU's memory (vllm-project/vllm issue 55510), so that
the run that goes on finds none.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress

import psutil

_LOOK_EVERY_SECONDS = 0.5


def start_warden() -> subprocess.Popen[bytes]:
    """Watch this process from one of its own; terminate what is returned once nothing is to be watched any more."""
    return subprocess.Popen([sys.executable, "-m", __name__, str(psutil.Process().pid)], start_new_session=True)


def _watch(parent: psutil.Process) -> None:
    wards: set[psutil.Process] = set()
    while _is_alive(parent):
        wards.update(_children(parent))
        time.sleep(_LOOK_EVERY_SECONDS)
    latest = {child for ward in wards for child in _children(ward)}
    for ward in (wards | latest) - {psutil.Process()}:
        with suppress(psutil.NoSuchProcess):
            ward.kill()


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
