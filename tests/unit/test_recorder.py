"""Metrics are combined over the steps of an interval as their reduction demands, and values outlast a stopped run."""

from __future__ import annotations

import math

import pytest
import torch

from megatron_ipt.errors import UserError
from megatron_ipt.parallel.groups import Groups
from megatron_ipt.training.recorder import MetricRecorder, Reduced, Reduction


def reduced(groups: Groups, reduction: Reduction, *values: float | torch.Tensor | None) -> Reduced:
    recorder = MetricRecorder(groups)
    for value in values:
        recorder.record("metric", value, reduction)
    return recorder.reduce()["metric"]


@pytest.mark.parametrize(
    ("reduction", "expected"), [("mean", 3.5), ("sum", 7.0), ("max", 5.0), ("min", 2.0)], ids=lambda each: str(each)
)
@pytest.mark.parametrize(
    "values",
    [(5.0, 2.0), (None, 5.0, 2.0), (5.0, None, 2.0), (2.0, 5.0, None), (torch.tensor([5.0]), 2.0)],
    ids=["all", "not the first", "not the second", "not the last", "tensor"],
)
def test_steps_without_a_value_do_not_count(
    groups: Groups, reduction: Reduction, expected: float, values: tuple[float | None, ...]
) -> None:
    metric = reduced(groups, reduction, *values)
    assert (metric.value, metric.weight) == (expected, 2)


@pytest.mark.parametrize("reduction", ["mean", "sum", "max", "min"])
def test_metric_without_values_is_nan(groups: Groups, reduction: Reduction) -> None:
    assert math.isnan(reduced(groups, reduction, None, None).value)


def test_negative_values_are_not_compared_with_zero(groups: Groups) -> None:
    assert reduced(groups, "max", None, -5.0, -2.0).value == -2.0
    assert reduced(groups, "min", None, 5.0, 2.0).value == 2.0


def test_totals_are_divided_by_their_weights(groups: Groups) -> None:
    recorder = MetricRecorder(groups)
    recorder.add("loss", 6.0, 4.0)
    recorder.add("loss", 4.0, 1.0)
    assert recorder.reduce()["loss"].value == 2.0
    assert recorder.reduce() == {}


@pytest.mark.parametrize(("reduction", "expected"), [("mean", 4.0), ("sum", 12.0), ("max", 7.0), ("min", 2.0)])
def test_values_of_a_stopped_run_are_carried(groups: Groups, reduction: Reduction, expected: float) -> None:
    before = MetricRecorder(groups)
    before.record("metric", 7.0, reduction)
    before.record("metric", 3.0, reduction)
    resumed = MetricRecorder(groups)
    resumed.carry(before.state())
    resumed.record("metric", 2.0, reduction)
    metric = resumed.reduce()["metric"]
    assert (metric.value, metric.weight) == (expected, 3)
    assert metric.by_rank == (2.0,)
    assert resumed.reduce() == {}


def test_carried_metric_that_is_not_recorded_again_is_kept(groups: Groups) -> None:
    recorder = MetricRecorder(groups)
    recorder.carry({"metric": ["max", 7.0, 1.0]})
    assert recorder.reduce()["metric"].value == 7.0


def test_one_name_with_two_reductions_is_refused(groups: Groups) -> None:
    recorder = MetricRecorder(groups)
    recorder.record("metric", 1.0, "max")
    with pytest.raises(UserError, match="reduce=max and with reduce=min"):
        recorder.record("metric", 1.0, "min")
