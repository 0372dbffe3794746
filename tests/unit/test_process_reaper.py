"""The descendants of a process end with it, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil
import pytest

STARTER = """
import subprocess, sys, time
from megatron_ipt.lm.process_reaper import start_process_reaper
reaper = start_process_reaper()
child = subprocess.Popen(["sh", "-c", "sleep 600 & wait"], start_new_session=True)
time.sleep(2)
if sys.argv[1] == "stands down":
    reaper.terminate()
    reaper.wait()
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("case", ["watched", "stands down"])
def test_children_end_with_a_killed_parent(case: str) -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER, case], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        started = [child, *child.children(recursive=True)]
        assert len(started) == 2
        parent.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(started, timeout=15 if case == "watched" else 3)
    for process in alive:
        process.kill()
    assert len(alive) == (0 if case == "watched" else 2)
