"""Productive time and goodput over the sessions of a run, with a clock of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from megatron_ipt.observability.sessions import SESSIONS_NAME, RunTimes, read_sessions
from megatron_ipt.training.clock import RunClock
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.recorder import Interval, Report
from megatron_ipt.training.sessions import Sessions
from megatron_ipt.training.state import TrainState

STARTED = psutil.Process().create_time()


class Machine:
    """Its time is that since this process started; the callbacks start after `seconds`."""

    def __init__(self, seconds: float = 5.0) -> None:
        self.seconds = seconds
        self.clock = RunClock(now=lambda: self.seconds)

    def now(self) -> float:
        return STARTED + self.seconds


@pytest.fixture
def make_sessions(make_context: Callable[..., RunContext], tmp_path: Path) -> Callable[..., Sessions]:
    context = make_context({"run": str(tmp_path)})

    def make(machine: Machine, *, is_roll_back: bool = False) -> Sessions:
        return Sessions(replace(context, clock=machine.clock), is_roll_back=is_roll_back, now=machine.now)

    return make


def recorded(run: Path) -> RunTimes:
    times = read_sessions(run / SESSIONS_NAME)
    assert times is not None
    return times


def goodput(sessions: Sessions) -> float:
    report = Report(Interval(1, 1, 1.0), {}, {})
    sessions.after_report(TrainState(), report)
    return float(report.metrics["goodput"])


def test_productive_time_is_that_in_steps_over_all_sessions(
    make_sessions: Callable[..., Sessions], tmp_path: Path
) -> None:
    machine = Machine()
    sessions = make_sessions(machine)
    sessions.start(TrainState())
    [session] = recorded(tmp_path).sessions
    assert (session.started, session.ended, session.productive_seconds) == (STARTED, machine.now(), 0.0)
    assert (session.ranks, session.device) == (1, "CPU")

    machine.seconds += 15.0
    assert goodput(sessions) == pytest.approx(15 / 20)
    assert recorded(tmp_path).goodput == pytest.approx(15 / 20)
    with machine.clock.outside("checkpoint"):
        machine.seconds += 10.0
        saved = sessions.state_dict()
    machine.seconds += 10.0
    sessions.leave(TrainState())
    assert recorded(tmp_path).goodput == pytest.approx(25 / 40)

    resuming = Machine(seconds=60.0)
    resumed = make_sessions(resuming)
    resumed.load_state_dict(saved)
    resumed.start(TrainState(iteration=1))
    assert [one.productive_seconds for one in recorded(tmp_path).sessions] == [25.0, saved["productive_seconds"]]
    resuming.seconds += 20.0
    resumed.finish(TrainState())
    productive = saved["productive_seconds"] + 20
    assert recorded(tmp_path).goodput == pytest.approx(productive / 80)
    assert goodput(resumed) == pytest.approx(productive / 80)


def test_attempt_after_a_roll_back_is_of_the_same_session(
    make_sessions: Callable[..., Sessions], tmp_path: Path
) -> None:
    """The steps since the checkpoint, 8 s, were in vain."""
    machine = Machine()
    first = make_sessions(machine)
    first.start(TrainState())
    machine.seconds += 4.0
    machine.clock.take_interval()
    saved = first.state_dict()
    machine.seconds += 8.0
    machine.clock.take_interval()
    second = make_sessions(machine, is_roll_back=True)
    second.load_state_dict(saved)
    second.start(TrainState(iteration=1))
    machine.seconds += 3.0
    second.finish(TrainState())
    [session] = recorded(tmp_path).sessions
    assert (session.started, session.ended, session.productive_seconds) == (STARTED, STARTED + 20.0, 7.0)
