"""Losses and gradients that are not sound: the run stops, skips or rolls back; the samples are named."""

from __future__ import annotations

import json
import math
from typing import Any

import fault_hooks
import jobs
import pytest
from pool import WorkerPool
from ranks import Ranks
from tiers import tiered
from tiny import losses

from megatron_ipt.checkpointing.layout import iteration_folder, saved_iterations

pytestmark = pytest.mark.distributed


def run_with(config: dict[str, Any], change: fault_hooks.Change, iteration: int = 7) -> tuple[Ranks, list[int | None]]:
    ranks = Ranks(2, config, prepare=fault_hooks.change_losses, arguments=(iteration, 1, change))
    return ranks, ranks.wait()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (fault_hooks.with_nan_gradient, "a gradient is not finite"),
        (fault_hooks.to_infinity, "the loss is inf"),
    ],
    ids=["NaN in a gradient", "Inf loss"],
)
def test_not_finite_stops_before_the_weights_are_touched(
    change: fault_hooks.Change, said: str, make_config: Any
) -> None:
    ranks, codes = run_with(make_config("run", checkpoint={"save_interval": 5}), change)
    assert codes == [2, 2]
    assert f"iteration 7: {said}" in ranks.output()
    assert "Traceback" not in ranks.output(0) + ranks.output(1)
    assert saved_iterations(ranks.run) == [5]


def test_anomaly_determines_the_exit_code_even_if_a_save_fails(make_config: Any) -> None:
    """In the first step after a save has begun, whose writers are killed: a restart would meet the same anomaly."""
    config = make_config("run", checkpoint={"save_interval": 5})
    hook, arguments = fault_hooks.change_losses_and_kill_writers, (6, 1, fault_hooks.with_nan_gradient, 5)
    ranks = Ranks(2, config, prepare=hook, arguments=arguments)
    assert ranks.wait() == [2, 2]
    assert "iteration 6: a gradient is not finite" in ranks.output()
    assert "warning: a process that was writing a checkpoint was killed" in ranks.output()
    assert saved_iterations(ranks.run) == []


def test_broken_samples_are_named(make_config: Any) -> None:
    """The hook strikes rank 1's first micro-batch: samples 2 and 3 of the batch that begins after 48."""
    config = make_config("run", faults={"on_nonfinite": "skip"})
    ranks, codes = run_with(config, fault_hooks.to_infinity)
    assert codes == [0, 0]
    (line,) = (line for line in ranks.output().splitlines() if "iteration 7: " in line)
    assert "2 of 8 samples have a non-finite loss: sample 50 (loss inf, document" in line
    assert "sample 51 (loss inf, document" in line
    assert config["data"]["blend"][0]["prefix"] in line


def test_skip_and_roll_back_leave_the_batch_out(pool: WorkerPool, make_config: Any) -> None:
    """Both end with the same bits, which are not those of a run that learned from the batch of iteration 7."""
    measured, weights = {}, {}
    for policy in ("skip", "roll_back"):
        config = make_config(policy, faults={"on_nonfinite": policy}, checkpoint={"save_interval": 5})
        ranks, codes = run_with(config, fault_hooks.with_nan_gradient)
        assert codes == [0, 0]
        assert ("resuming from iteration 5" in ranks.output()) == (policy == "roll_back")
        measured[policy] = losses(ranks.run)
        weights[policy] = pool.run(1, jobs.weight_hashes, str(iteration_folder(ranks.run, 20)))[0]
    assert len(measured["skip"]) == 20
    assert [iteration for iteration, loss in enumerate(measured["skip"], start=1) if math.isnan(loss)] == [7]
    assert list(map(str, measured["roll_back"])) == list(map(str, measured["skip"]))
    assert weights["roll_back"] == weights["skip"]
    with_batch = make_config("with_batch", training={"exit_interval": 8}, checkpoint={"save_interval": 5})
    pool.run(2, jobs.pretrain, with_batch)
    assert losses(with_batch["run"])[:6] == measured["skip"][:6]
    assert losses(with_batch["run"])[7] != measured["skip"][7]


@pytest.mark.parametrize("policy", tiered(["ignore", "skip", "roll_back"], ["skip"]))
def test_loss_spike(policy: str, make_config: Any) -> None:
    config = make_config(
        "run", faults={"on_loss_spike": policy, "loss_spike_window": 5}, checkpoint={"save_interval": 5}
    )
    ranks, codes = run_with(config, fault_hooks.to_spike, iteration=9)
    assert codes == [0, 0]
    assert ("iteration 9: the loss is" in ranks.output()) == (policy != "ignore")
    (row,) = (json.loads(line) for line in (ranks.run / "metrics.jsonl").read_text().splitlines()[-1:])
    assert row["iteration"] == 20


def test_too_many_anomalies_stop_the_run(make_config: Any) -> None:
    config = make_config("run", faults={"on_nonfinite": "skip", "max_anomalies": 0})
    ranks, codes = run_with(config, fault_hooks.to_infinity)
    assert codes == [2, 2]
    assert "iteration 7: the loss is inf" in ranks.output()


def test_anomalies_are_counted_across_restarts(make_config: Any) -> None:
    """One in the job that stops at iteration 5, one in the job that resumes there."""
    for sections, strike, expected in (({"training": {"exit_interval": 5}}, 3, [0]), ({}, 2, [2])):
        config = make_config("run", faults={"on_nonfinite": "skip", "max_anomalies": 1}, **sections)
        ranks = Ranks(1, config, prepare=fault_hooks.change_losses, arguments=(strike, 0, fault_hooks.to_infinity))
        assert ranks.wait() == expected
    assert "iteration 7: the loss is inf" in ranks.output()
