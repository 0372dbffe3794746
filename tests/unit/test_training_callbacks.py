"""Callbacks of a run are told apart by name, and named ones have to be installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_ipt.errors import UserError
from megatron_ipt.training.callbacks import Callback, check_names, load_state_dicts, state_dicts
from megatron_ipt.training.plugins import find_callback_problems, load_callbacks


class Counting(Callback):
    def __init__(self, count: int = 0) -> None:
        self.count = count

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


def test_two_callbacks_of_one_name_are_refused() -> None:
    check_names([Counting(), Callback()])
    with pytest.raises(UserError, match="Counting"):
        check_names([Counting(), Callback(), Counting()])


def test_states_find_their_callbacks() -> None:
    """A callback without state is not saved, a new one starts afresh, and a state without callback is logged."""
    states = state_dicts([Counting(3), Callback()])
    assert states == {"Counting": {"count": 3}}
    resumed, log = Counting(), list[str]()
    load_state_dicts([Callback(), resumed], {**states, "Removed": {"x": 1}}, log.append)
    assert resumed.count == 3
    assert len(log) == 1
    assert "callback Removed" in log[0]


def test_named_callbacks_have_to_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "provider-1.0.dist-info"
    info.mkdir()
    entries = (
        "[megatron_ipt.callbacks]\nno-callback = builtins:dict\ncallback = megatron_ipt.training.callbacks:Callback\n"
    )
    (info / "entry_points.txt").write_text(entries, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: provider\nVersion: 1.0\n", encoding="utf-8")
    assert "install a package" in str(find_callback_problems(["callback"])[0])
    monkeypatch.syspath_prepend(tmp_path)
    (problem,) = find_callback_problems(["callback", "calback"])
    assert (problem.value, problem.remedy) == ("calback", "one of callback, no-callback")
    assert [type(callback) for callback in load_callbacks(["callback"])] == [Callback]
    with pytest.raises(UserError, match="returns a dict"):
        load_callbacks(["no-callback"])
