"""The memory of a rank and the time it waited for data, as they appear in metrics.jsonl."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from megatron_ipt.config.pretrain import PrecisionConfig
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.gauges import Gauges, peak_tflops
from megatron_ipt.training.recorder import Interval
from megatron_ipt.training.state import TrainState


class Waiting:
    """Micro-batches that have been waited for."""

    wait_seconds = 0.0


@pytest.fixture
def context(make_context: Callable[..., RunContext]) -> RunContext:
    return make_context()


def values(context: RunContext, gauges: Gauges, interval: Interval) -> dict[str, float]:
    gauges.before_report(TrainState(), interval)
    reduced = context.recorder.reduce()
    assert {metric.reduction for metric in reduced.values()} == {"max"}
    return {name: metric.value for name, metric in reduced.items()}


def test_waiting_is_reported_by_step_and_as_a_share_of_each_interval(context: RunContext) -> None:
    batches: list[Any] = [Waiting(), Waiting()]
    gauges = Gauges(context, batches)
    batches[0].wait_seconds, batches[1].wait_seconds = 2.0, 1.0
    first = values(context, gauges, Interval(iterations=4, samples=8, seconds=12.0))
    assert (first["data_wait_seconds"], first["data_wait_share"]) == (0.75, 0.25)
    batches[1].wait_seconds = 5.0
    second = values(context, gauges, Interval(iterations=2, samples=8, seconds=8.0))
    assert (second["data_wait_seconds"], second["data_wait_share"]) == (2.0, 0.5)


def test_memory_on_a_cpu_is_that_of_the_process(context: RunContext) -> None:
    gauges, interval = Gauges(context, []), Interval(iterations=1, samples=1, seconds=1.0)
    memory = np.ones(1 << 26)  # 0.5 GiB
    resident = psutil.Process().memory_info().rss / 2**30
    reported = values(context, gauges, interval)
    assert reported["memory_gib"] == pytest.approx(resident, rel=0.05)
    del memory
    after = values(context, gauges, interval)
    assert after["memory_gib"] < reported["memory_gib"] - 0.4
    assert after["peak_memory_gib"] == pytest.approx(reported["memory_gib"], rel=0.05)


def test_memory_on_a_gpu_is_that_of_tensors(context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 3 * 2**30)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5 * 2**30)
    on_gpu = replace(context, groups=replace(context.groups, device=torch.device("cuda")))
    reported = values(on_gpu, Gauges(on_gpu, []), Interval(iterations=1, samples=1, seconds=1.0))
    assert (reported["memory_gib"], reported["peak_memory_gib"]) == (3.0, 5.0)


@pytest.mark.parametrize(
    ("gpu", "precision", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", PrecisionConfig(), 989.4),
        ("NVIDIA H100 80GB HBM3", PrecisionConfig(fp8="hybrid"), 1978.9),
        ("NVIDIA H100 80GB HBM3", PrecisionConfig(bf16=False), None),
        ("Another GPU", PrecisionConfig(), None),
    ],
)
def test_peak_of_a_gpu_is_that_of_the_number_format(
    gpu: str, precision: PrecisionConfig, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = SimpleNamespace(name=gpu, total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert peak_tflops(torch.device("cuda"), precision) == expected
    assert peak_tflops(torch.device("cpu"), precision) is None
