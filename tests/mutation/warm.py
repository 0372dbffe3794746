"""Run pytest in forks of a process that has imported the large libraries, but nothing of this project."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import coverage
import psutil
import pytest
from pytest import ExitCode

LARGE_LIBRARIES = (
    "torch",
    "torch.distributed.checkpoint",
    "megatron.core.dist_checkpointing",
    "megatron.core.distributed",
    "megatron.core.models.gpt",
    "megatron.core.optimizer",
    "megatron.core.pipeline_parallel",
    "transformers",
    "hypothesis",
    "scipy.stats",
)
TIMED_OUT = -1


def import_large_libraries() -> None:
    """Import what is slow to import; torch gets one thread, because threads do not survive a fork."""
    for library in LARGE_LIBRARIES:
        importlib.import_module(library)
    importlib.import_module("torch").set_num_threads(1)
    assert not any(name.startswith("megatron_ipt") for name in sys.modules)


def run_tests(tree: Path, files: Sequence[str], seconds: float, coverage_file: Path | None = None) -> int:
    """The exit code of pytest on `files` of `tree`, TIMED_OUT after `seconds`.

    Ends with the first failure unless coverage is recorded.
    """
    log = tree / "pytest.log"
    child = os.fork()
    if child == 0:
        code = int(ExitCode.TESTS_FAILED)
        try:
            os.setsid()
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            code = _pytest(tree, files, coverage_file)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    code = _wait(child, seconds)
    if coverage_file is not None and code != ExitCode.OK:
        sys.stderr.write(log.read_text(encoding="utf-8", errors="replace")[-4000:])
    return code


def _pytest(tree: Path, files: Sequence[str], coverage_file: Path | None) -> int:
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    os.environ.update(
        PYTHONPATH=str(tree),
        PYTHONDONTWRITEBYTECODE="1",  # two mutants of one second and size would share bytecode
        MEGATRON_IPT_TEST_WORKERS="fork",
        TMPDIR=str(tree / "tmp"),
        XDG_CACHE_HOME=str(tree / "cache"),
    )
    tempfile.tempdir = None
    sys.dont_write_bytecode = True
    arguments = ["-q", "-m", "not full and not gpu", "-p", "no:cacheprovider", *files]
    arguments += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # anyio has a pytest plugin, and is imported
    arguments += ["-x"] if coverage_file is None else []
    with contextlib.nullcontext() if coverage_file is None else _recorded(coverage_file):
        return int(pytest.main(arguments))


@contextlib.contextmanager
def _recorded(coverage_file: Path) -> Iterator[None]:
    """Record what this process and its children execute in files beside `coverage_file`."""
    settings = coverage_file.with_name("settings.ini")
    settings.write_text(
        f"[run]\ndata_file = {coverage_file}\nparallel = true\nsource_pkgs = megatron_ipt\n"
        "concurrency = multiprocessing, thread\npatch = subprocess, fork, _exit\nsigterm = true\n"
        "disable_warnings = module-not-measured\n"  # tests read what their ranks print
    )
    recording = coverage.Coverage(config_file=str(settings))
    recording.start()
    yield
    recording.stop()
    recording.save()


def _wait(child: int, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    process = psutil.Process(child)
    code = TIMED_OUT
    offspring: dict[int, psutil.Process] = {}
    while time.monotonic() < deadline:
        with contextlib.suppress(psutil.NoSuchProcess):
            offspring |= {each.pid: each for each in process.children(recursive=True)}
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            break
        time.sleep(0.1)
    for each in offspring.values():
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()  # psutil compares the time of creation: never another process of the same id
    if code == TIMED_OUT:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return code
