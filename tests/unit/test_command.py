"""How commands end: exit codes and what they print."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from megatron_ipt.cli.command import run_command


def test_ctrl_c_is_one_line_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: Sequence[str]) -> None:
        raise KeyboardInterrupt

    assert run_command(interrupted, []) == 130
    assert capsys.readouterr().err.strip() == "interrupted: run the same command again to resume"
