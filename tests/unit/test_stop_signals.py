"""Signals that ask a run to stop are recorded, and acknowledged once, by the main rank."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from megatron_ipt.parallel.child_processes import STOP_SIGNALS
from megatron_ipt.training.signals import StopSignals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("rank", "acknowledged"), [(None, 1), ("0", 1), ("1", 0)])
def test_first_signal_is_acknowledged(
    rank: str | None, acknowledged: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    signals = StopSignals()
    signals.listen()
    assert signals.received == 0
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)
        assert signals.received == number
    said = capfd.readouterr().err
    assert said == "SIGUSR1: the run saves after the current step and exits\n" * acknowledged
