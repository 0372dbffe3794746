"""Where the phases of a synthesis run."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from megatron_ipt.config.synthesis import ExecutorConfig
from megatron_ipt.errors import TemporaryFailure, UserError
from megatron_ipt.synthesis.generation.executors import Phase, gpus_of, read_failure, record_failure, run_phases


@pytest.mark.parametrize(
    ("worker", "gpus_per_task", "visible", "own"),
    [
        (0, 1, None, "0"),
        (3, 1, None, "3"),
        (1, 2, None, "2,3"),
        (1, 2, "4,5,6,7", "6,7"),
        (0, 1, "GPU-a,GPU-b", "GPU-a"),
    ],
)
def test_workers_of_a_machine_have_gpus_of_their_own(
    worker: int, gpus_per_task: int, visible: str | None, own: str
) -> None:
    assert gpus_of(worker, gpus_per_task, visible) == own


def write_gpus(folder: Path, worker: int, _workers: int) -> None:
    (folder / str(worker)).write_text(os.environ["CUDA_VISIBLE_DEVICES"])


def test_each_local_worker_sees_its_gpus(tmp_path: Path) -> None:
    phase = Phase("write", partial(write_gpus, tmp_path), 3)
    run_phases(ExecutorConfig(workers=3, gpus_per_task=2), [phase], tmp_path / "logs")
    assert [(tmp_path / str(worker)).read_text() for worker in range(3)] == ["0,1", "2,3", "4,5"]


def fail(how: str, failing: int, folder: Path, worker: int, _workers: int) -> None:
    """One worker fails once the other works for a long time."""
    if worker != failing:
        (folder / "pid").write_text(str(os.getpid()))
        time.sleep(600)
    while not (folder / "pid").exists() or not (folder / "pid").read_text():
        time.sleep(0.05)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "mistake":
        raise UserError("field", "value", "reason", "remedy")
    raise Unpicklable(1, 2)


class Unpicklable(Exception):
    """Made of two values and pickled as one, as the exceptions of some libraries are."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("killed", TemporaryFailure, "a worker was killed"),
        ("mistake", UserError, "reason"),
        ("unexpected", RuntimeError, r"worker \d failed: Unpicklable\('1 and 2'\)"),
    ],
)
@pytest.mark.parametrize("failing", [0, 1])
def test_failure_of_one_worker_ends_all(
    failing: int, how: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    phase = Phase("fail", partial(fail, how, failing, tmp_path), 2)
    with pytest.raises(error, match=message):
        run_phases(ExecutorConfig(workers=2), [phase], tmp_path / "logs")
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


STARTER = """
import sys
from functools import partial
from pathlib import Path
from test_executors import wait
from megatron_ipt.cli.command import run_command
from megatron_ipt.config.synthesis import ExecutorConfig
from megatron_ipt.synthesis.generation.executors import Phase, run_phases

def command(arguments):
    folder = Path(arguments[0])
    run_phases(ExecutorConfig(workers=2), [Phase("wait", partial(wait, folder), 2)], folder / "logs")

if __name__ == "__main__":
    sys.exit(run_command(command))
"""


def wait(folder: Path, worker: int, _workers: int) -> None:
    (folder / f"{worker}.pid").write_text(str(os.getpid()))
    time.sleep(600)


RESUME = "run the same command again to resume"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "code", "message"),
    [
        (signal.SIGINT, 130, f"interrupted: {RESUME}"),
        (signal.SIGTERM, os.EX_TEMPFAIL, f"SIGTERM: {RESUME}"),
        (signal.SIGUSR1, os.EX_TEMPFAIL, f"SIGUSR1: {RESUME}"),
        (signal.SIGKILL, -signal.SIGKILL, ""),
    ],
)
def test_workers_end_at_once_with_the_process_that_started_them(
    sent: signal.Signals, code: int, message: str, tmp_path: Path
) -> None:
    """Signals go to the whole group, as Ctrl-C in a terminal and Slurm's do; SIGKILL to the one process."""
    (tmp_path / "start.py").write_text(STARTER)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "start.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    files = [tmp_path / f"{worker}.pid" for worker in range(2)]
    deadline = time.monotonic() + 60
    while not all(file.exists() and file.read_text() for file in files):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    workers = [psutil.Process(int(file.read_text())) for file in files]
    if sent == signal.SIGKILL:
        process.send_signal(sent)
    else:
        os.killpg(process.pid, sent)
    assert process.wait(timeout=30) == code
    _, alive = psutil.wait_procs(workers, timeout=15)
    for worker in alive:
        worker.kill()
    assert not alive
    assert process.communicate()[1].strip() == message


def test_failure_on_ray_is_noted_and_read_back(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "file")
    causes = {
        UserError("field", Path("value"), "why", "how"): UserError,
        TemporaryFailure("later"): TemporaryFailure,
        full: TemporaryFailure,
        Unpicklable(1, 2): RuntimeError,
    }
    for number, (failure, kind) in enumerate(causes.items()):

        def work(_worker: int, _workers: int, failure: Exception = failure) -> None:
            raise failure

        with pytest.raises(type(failure)):
            record_failure(Phase("generate", work, 1), tmp_path, number)
        read = read_failure(tmp_path / f"{number:05d}.json")
        assert type(read) is kind
        assert str(failure).partition(": ")[0] in str(read) or failure is full
