"""How commands end: exit codes and what they print."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from megatron_ipt.attempts import FOLDER_VARIABLE
from megatron_ipt.cli import plan
from megatron_ipt.cli.command import run_command
from megatron_ipt.errors import RankLost, TemporaryFailure, UserError


def test_ctrl_c_is_one_line_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: Sequence[str]) -> None:
        raise KeyboardInterrupt

    assert run_command(interrupted, []) == 130
    assert capsys.readouterr().err.strip() == "interrupted: run the same command again to resume"


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (UserError("field", "value", "why", "how"), 2, "error\n  field = value"),
        (TemporaryFailure("later"), 75, "later"),
        (OSError(errno.ENOSPC, "No space left on device", "out/file"), 75, "out/file: No space left on device\nfree"),
        (OSError(errno.ESTALE, "Stale file handle", "out/file"), 75, "out/file: Stale file handle"),
        (PermissionError(errno.EACCES, "Permission denied", "out/file"), 2, "error\n  file = out/file\n"),
        (OSError(errno.EROFS, "Read-only file system", "out/file"), 2, "error\n  file = out/file\n"),
    ],
)
def test_failures_have_an_exit_code_a_message_and_no_traceback(
    error: Exception,
    code: int,
    printed: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))

    def failing(_: Sequence[str]) -> None:
        raise error

    assert run_command(failing, []) == code
    assert capsys.readouterr().err.startswith(printed)
    assert (tmp_path / "exit-0").read_text() == f"{code}\n"


def test_internal_errors_keep_their_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))

    def failing(_: Sequence[str]) -> None:
        raise KeyError("missing")

    with pytest.raises(KeyError):
        run_command(failing, [])
    assert (tmp_path / "exit-0").read_text() == "1\n"


def test_every_rank_reports_the_contact_it_lost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "3")

    def failing(_: Sequence[str]) -> None:
        raise RankLost("lost contact")

    assert run_command(failing, []) == os.EX_TEMPFAIL
    assert capsys.readouterr().err == "rank 3: lost contact\n"


def test_signals_to_a_forked_child_end_the_child_alone(capfd: pytest.CaptureFixture[str]) -> None:
    context = multiprocessing.get_context("fork")
    is_running, codes = context.Event(), []

    def wait() -> None:
        is_running.set()
        time.sleep(60)

    def command(_: Sequence[str]) -> None:
        child = context.Process(target=wait)
        child.start()
        assert is_running.wait(60)  # CPython drops what a child with a handler is sent before it first runs
        child.terminate()
        child.join()
        codes.append(child.exitcode)

    before = signal.getsignal(signal.SIGTERM)
    assert run_command(command, []) == 0
    assert codes == [-signal.SIGTERM]
    assert capfd.readouterr().err == ""
    assert signal.getsignal(signal.SIGTERM) is before


CLOSED_PIPE = 128 + signal.SIGPIPE
COMMANDS = {
    "the list of commands": ["megatron_ipt.cli.entry", "--help"],
    "help": ["megatron_ipt.cli.entry", "pretrain", "--help"],
    "text": ["megatron_ipt.cli.plan", "model.preset=tiny-llama", "gpus=2", "seq_length=128"],
    "JSON": ["megatron_ipt.cli.plan", "--json", "model.preset=tiny-llama", "gpus=2", "seq_length=128"],
}


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_closed_pipe_ends_a_command_quietly(arguments: list[str]) -> None:
    end = run_unread(f"from {arguments[0]} import main; raise SystemExit(main())", *arguments[1:], unread="stdout")
    assert (end.returncode, end.stderr) == (CLOSED_PIPE, b"")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_work_does_not_end_with_the_reader_of_its_output(unbuffered: str, tmp_path: Path) -> None:
    program = f"""
import os, subprocess
from megatron_ipt.cli import plan
from megatron_ipt.cli.command import run_command
def work(_):
    print("a library's own message", flush=True)
    subprocess.run(["echo", "a child's message"], check=True)
    open({str(tmp_path / "results")!r}, "w").write("whole")
raise SystemExit(run_command(work, []))
"""
    end = run_unread(program, unread="stdout", PYTHONUNBUFFERED=unbuffered, MEGATRON_IPT_ATTEMPT=str(tmp_path))
    assert (end.returncode, end.stderr) == (CLOSED_PIPE, b"")
    assert (tmp_path / "results").read_text() == "whole"
    assert (tmp_path / "exit-0").read_text() == "0\n"


def test_failure_keeps_its_exit_code_without_a_reader_of_its_message() -> None:
    """As after Ctrl-C of `2>&1 | tee LOG`, which ends `tee` first."""
    program = "from megatron_ipt.cli.plan import main; raise SystemExit(main())"
    assert run_unread(program, "gpus=many", unread="stderr").returncode == 2


def test_settings_may_stand_on_both_sides_of_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["gpus=many", "--json", "mfu=2"]) == 2
    printed = capsys.readouterr().err
    assert "gpus = many" in printed and "mfu = 2" in printed


def run_unread(program: str, *arguments: str, unread: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a Python program with a pipe that nobody reads as the stream `unread`."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            [sys.executable, "-c", program, *arguments],
            stdout=writer if unread == "stdout" else subprocess.PIPE,
            stderr=writer if unread == "stderr" else subprocess.PIPE,
            env={**os.environ, **environment},
            check=False,
        )
    finally:
        os.close(writer)
