"""Anomalies are counted over the whole history of a run, whatever stops and resumes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_ipt.config.loading import config_from
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.corpus.manifest import Stage
from megatron_ipt.parallel.groups import Groups, initialize, shutdown
from megatron_ipt.training.anomalies import Anomalies, AnomalousStep, RollBack
from megatron_ipt.training.callbacks import PendingUpdate
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.loss import LossMeter
from megatron_ipt.training.recorder import MetricRecorder
from megatron_ipt.training.sample_losses import SampleLosses
from megatron_ipt.training.state import TrainState


@pytest.fixture
def groups() -> Iterator[Groups]:
    yield initialize(config_from(PretrainConfig, {"run": "r", "data": {"tokenizer": "t"}}).parallel, seed=1)
    shutdown()


def anomalies(
    groups: Groups, faults: dict[str, Any], *, saved: Anomalies | None = None, skipped_batches: Collection[int] = ()
) -> Anomalies:
    """The callback of an attempt that starts at iteration 5, from what `saved` saved there."""
    config = config_from(PretrainConfig, {"run": "r", "data": {"tokenizer": "t"}, "faults": faults})
    context = RunContext(
        config=config,
        stage=Stage("pretrain", Path("r"), {}, [], 1),
        groups=groups,
        log=lambda _: None,
        recorder=MetricRecorder(groups),
    )
    losses = SampleLosses(LossMeter(groups, ["all"]), groups, batch_size=lambda _: 1, micro_batch_size=1)
    losses.add(torch.ones(1), torch.ones(1), torch.zeros(1))
    callback = Anomalies(context, losses, str, skipped_batches)
    if saved is not None:
        callback.load_state_dict(saved.state_dict())
    callback.start(TrainState(iteration=5))
    return callback


def is_accepted(callback: Anomalies, iteration: int, loss: float = float("nan")) -> bool:
    update = PendingUpdate(loss, has_finite_gradients=True)
    callback.before_optimizer_step(TrainState(iteration=iteration), update)
    return not update.is_rejected


def test_count_continues_after_a_resume(groups: Groups) -> None:
    faults = {"on_nonfinite": "skip", "max_anomalies": 2}
    before = anomalies(groups, faults)
    assert not is_accepted(before, 5)
    resumed = anomalies(groups, faults, saved=before)
    assert not is_accepted(resumed, 6)
    with pytest.raises(AnomalousStep, match="this is anomaly 3"):
        is_accepted(anomalies(groups, faults, saved=resumed), 7)


def test_count_includes_roll_backs_after_the_checkpoint_only(groups: Groups) -> None:
    """Batch 3 lies before the checkpoint of iteration 5, which has counted it."""
    faults = {"on_nonfinite": "roll_back", "max_anomalies": 2}
    with pytest.raises(RollBack) as met:
        is_accepted(anomalies(groups, faults), 6)
    attempt = anomalies(groups, faults, skipped_batches={3, met.value.iteration})
    assert attempt.state_dict()["count"] == 1
    with pytest.raises(RollBack):
        is_accepted(attempt, 7)
    with pytest.raises(AnomalousStep, match="this is anomaly 3"):
        is_accepted(anomalies(groups, faults, skipped_batches={3, 6, 7}), 8)


def test_batch_without_loss_is_no_measure_of_the_others(groups: Groups) -> None:
    """Fully masked batches have the loss 0, which would make every other one a spike, or widen what is none."""
    callback = anomalies(groups, {"on_loss_spike": "skip", "loss_spike_window": 3})
    for iteration, loss in ((5, 3.0), (6, 3.1), (7, 2.9)):
        assert is_accepted(callback, iteration, loss)
    for iteration in (8, 9):
        masked = PendingUpdate(0.0, has_finite_gradients=True, has_loss=False)
        callback.before_optimizer_step(TrainState(iteration=iteration), masked)
        assert not masked.is_rejected
    assert callback.state_dict()["recent_losses"] == [3.0, 3.1, 2.9]
    assert not is_accepted(callback, 10, loss=9.0)


def test_spike_is_found_by_the_losses_from_before_a_resume(groups: Groups) -> None:
    faults = {"on_loss_spike": "skip", "loss_spike_window": 3}
    before = anomalies(groups, faults)
    assert [is_accepted(before, iteration, loss) for iteration, loss in ((5, 3.0), (6, 3.1), (7, 2.9))] == [True] * 3
    assert not is_accepted(anomalies(groups, faults, saved=before), 8, loss=9.0)
    assert is_accepted(anomalies(groups, faults), 8, loss=9.0)


@pytest.mark.parametrize(
    ("loss", "named"),
    [
        (float("nan"), "1 of 4 samples have a non-finite loss: sample 42 (loss inf, document 42)"),
        (
            9.0,
            "highest losses of the batch: sample 40 (loss 2.0000, document 40); sample 41 (loss 0.5000, document 41)",
        ),
    ],
)
def test_samples_are_named_with_their_loss_per_token(
    groups: Groups, make_context: Callable[..., RunContext], loss: float, named: str
) -> None:
    faults = {"on_nonfinite": "skip", "on_loss_spike": "skip", "loss_spike_window": 2}
    log = list[str]()
    context = make_context({"faults": faults}, log=log.append)
    losses = SampleLosses(LossMeter(groups, ["all"]), groups, batch_size=lambda _: 4, micro_batch_size=2)
    callback = Anomalies(context, losses, lambda sample: f"document {sample}", ())
    for iteration in (0, 1):
        assert is_accepted(callback, iteration, 3.0)
    last = float("inf") if math.isnan(loss) else 0.0
    losses.add(torch.tensor([6.0, 2.0]), torch.tensor([3.0, 4.0]), torch.zeros(2))
    losses.add(torch.tensor([last, 0.0]), torch.tensor([4.0, 0.0]), torch.zeros(2))
    assert losses.totals().tolist() == [8.0 + last, 11.0]
    update = PendingUpdate(loss, has_finite_gradients=True)
    callback.before_optimizer_step(TrainState(iteration=10, consumed_train_samples=40), update)
    assert update.is_rejected
    (line,) = log
    assert line.startswith("iteration 11: the loss is ")
    assert f"; skip; {named}" in line


def test_rank_without_losses_names_no_samples(groups: Groups) -> None:
    """As those of pipeline stages before the last."""
    losses = SampleLosses(LossMeter(groups, ["all"]), groups, batch_size=lambda _: 4, micro_batch_size=2)
    assert losses.of_samples(0) == {}
    assert losses.totals().tolist() == [0.0, 0.0]
