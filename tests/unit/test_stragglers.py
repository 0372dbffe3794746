"""Which rank keeps the others waiting."""

from __future__ import annotations

import pytest
import torch

from megatron_ipt.training.stragglers import ComputeClock, find_slowest


@pytest.mark.parametrize(
    ("parts", "seconds", "slowest", "ratio"),
    [
        ([0, 0], [1.0, 3.0], 1, 3.0),
        ([0, 0, 0, 0], [1.0, 1.0, 1.0, 1.5], 3, 1.5),
        ([0, 1, 0, 1], [1.0, 9.0, 2.0, 10.0], 2, 2.0),  # stages of a pipeline differ by themselves
    ],
)
def test_find_slowest(parts: list[float], seconds: list[float], slowest: int, ratio: float) -> None:
    assert find_slowest(parts, seconds) == (slowest, ratio)


def test_steps_on_a_gpu_are_measured_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host queues each step at once; the device takes 300 ms for the first and 100 ms for the second."""
    device_ms = iter([1000.0, 1300.0, 5000.0, 5100.0])

    class Event:
        recorded_ms: float
        is_waited_for = False

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.recorded_ms = next(device_ms)

        def synchronize(self) -> None:
            self.is_waited_for = True

        def elapsed_time(self, end: Event) -> float:
            assert end.is_waited_for
            return end.recorded_ms - self.recorded_ms

    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = ComputeClock(torch.device("cuda"))
    clock.stop()  # gradients of a validation: no step was started
    for _ in range(2):
        clock.start()
        clock.stop()
    assert clock.take_seconds() == pytest.approx(0.2)
    assert clock.take_seconds() == 0.0
