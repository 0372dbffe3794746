"""The row of metrics.jsonl and the line of the log at each interval, held against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from megatron_ipt.config.loading import config_from
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.corpus.manifest import Stage
from megatron_ipt.models.accounting import flops_per_token
from megatron_ipt.observability.metrics import NullMetrics
from megatron_ipt.parallel.groups import Groups
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.loss import LossMeter
from megatron_ipt.training.metrics_reporter import MetricsReporter
from megatron_ipt.training.recorder import Interval, MetricRecorder, Report
from megatron_ipt.training.state import StepResult, TrainState

SEQ_LENGTH = 100
INTERVAL = Interval(iterations=2, samples=8, seconds=4.0)
STEP = StepResult(learning_rate=2.5e-4, grad_norm=1.23456)


class Rows(NullMetrics):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, Mapping[str, Any]]] = []

    def log(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        self.rows.append((iteration, metrics))


class Reporting:
    """A reporter at iteration 6 of 20, with what it has written."""

    def __init__(self, groups: Groups, device: str = "cpu") -> None:
        self.metrics, self.lines = Rows(), list[str]()
        self.recorder, self.meter = MetricRecorder(groups), LossMeter(groups, ["books", "code"])
        given = {
            "run": "r",
            "data": {"tokenizer": "t", "seq_length": SEQ_LENGTH},
            "training": {"train_iters": 20, "eval_interval": 20},
            "checkpoint": {"save_interval": 20},
        }
        self.config = config_from(PretrainConfig, given)
        context = RunContext(
            config=self.config,
            stage=Stage("pretrain", Path("r"), {}, [], 1),
            groups=replace(groups, device=torch.device(device)),
            log=self.lines.append,
            recorder=self.recorder,
            metrics=self.metrics,
        )
        self.reporter = MetricsReporter(context, self.meter)

    def report(self, step: StepResult = STEP) -> Mapping[str, Any]:
        """Report two steps, of which the second is `step`, and return the row."""
        state = TrainState(iteration=6, consumed_train_samples=24, last_step=replace(step, is_skipped=True))
        self.reporter.after_step(state)
        state.last_step = step
        self.reporter.after_step(state)
        self.reporter.before_report(state, INTERVAL)
        reduced = self.recorder.reduce()
        kept = {"goodput": 0.5} | {name: metric.value for name, metric in reduced.items()}
        self.reporter.after_report(state, Report(INTERVAL, reduced, kept))
        iteration, row = self.metrics.rows[-1]
        assert iteration == 6
        return row


def test_row_and_line_of_an_interval(groups: Groups) -> None:
    reporting = Reporting(groups)
    for sources in ([0, 1], [0, 0]):
        reporting.meter.add(torch.tensor([30.0, 10.0]), torch.tensor([10.0, 4.0]), torch.tensor(sources))
    row = reporting.report()
    flops = flops_per_token(reporting.config.model, SEQ_LENGTH)
    assert row == {
        "consumed_train_samples": 24,
        "consumed_train_tokens": 2400,
        "lm_loss": pytest.approx(80 / 28),
        "learning_rate": 2.5e-4,
        "grad_norm": 1.23456,
        "skipped_steps": 1,
        "step_seconds": 2.0,
        "tokens_per_second": 200.0,
        "tflops_per_rank": pytest.approx(200 * flops / 1e12),
        "goodput": 0.5,
        "source_loss/books": pytest.approx(70 / 24),
        "source_loss/code": 2.5,
        "source_tokens/books": 24,
        "source_tokens/code": 4,
    }
    assert reporting.lines == [
        f"iteration 6/20 | loss 2.8571 | lr 2.50e-04 | grad norm 1.235 | 200 tokens/s | {200 * flops / 1e12:.3g} "
        "TFLOP/s/GPU | ETA 0:00:28"
    ]
    assert reporting.report()["skipped_steps"] == 2


def test_line_without_loss_and_gradient_norm(groups: Groups) -> None:
    reporting = Reporting(groups)
    row = reporting.report(StepResult())
    assert "source_loss/books" not in row
    assert "| loss none | lr 0.00e+00 | grad norm none |" in reporting.lines[0]


def test_share_of_a_gpus_peak(groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="NVIDIA H100 80GB HBM3", total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    reporting = Reporting(groups, "cuda")
    row = reporting.report()
    assert row["mfu"] == pytest.approx(row["tflops_per_rank"] / 989.4)
    assert f"TFLOP/s/GPU ({row['mfu']:.1%} of peak) |" in reporting.lines[0]


def test_steps_before_a_stop_are_reported_after_it(groups: Groups) -> None:
    stopped, resumed = Reporting(groups), Reporting(groups)
    stopped.meter.add(torch.tensor([30.0]), torch.tensor([10.0]), torch.tensor([0]))
    stopped.reporter.after_step(TrainState(last_step=StepResult(is_skipped=True)))
    resumed.reporter.load_state_dict(stopped.reporter.state_dict())
    resumed.reporter.start(TrainState(iteration=5))
    assert not resumed.lines
    resumed.meter.add(torch.tensor([10.0]), torch.tensor([6.0]), torch.tensor([0]))
    row = resumed.report()
    assert (row["lm_loss"], row["skipped_steps"]) == (2.5, 2)


@pytest.mark.parametrize(("iteration", "lines"), [(0, 0), (5, 1)])
def test_checkpoint_without_these_values_is_told_of(groups: Groups, iteration: int, lines: int) -> None:
    reporting = Reporting(groups)
    reporting.reporter.start(TrainState(iteration=iteration))
    assert len(reporting.lines) == lines
    assert all("the next report covers the steps after iteration 5" in line for line in reporting.lines)
