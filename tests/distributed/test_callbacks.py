"""The seams of the training loop: callbacks from outside the package, recorded metrics, and what a step costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import callback_jobs
import pytest
from installed_packages import install
from pool import WorkerPool

from megatron_ipt.checkpointing.layout import iteration_folder
from megatron_ipt.observability.metrics import read_metrics

pytestmark = pytest.mark.distributed

MODULE = '''
"""A callback as a user writes it."""

import torch

from megatron_ipt.training.callbacks import Callback


class Outsider(Callback):
    def __init__(self):
        self.steps, self.losses = 0, torch.zeros(0)

    def setup(self, context, bundle):
        self.context, self.weights = context, list(bundle.chunks[0].parameters())

    def vote(self):
        return self.context.groups.rank + 1.0

    def before_optimizer_step(self, state, update):
        assert all(weight.main_grad.isfinite().all() for weight in self.weights)
        self.losses = torch.cat([self.losses, torch.tensor([update.loss])])
        if state.iteration == 1:
            update.reject()

    def after_step(self, state):
        self.steps += 1
        assert state.last_step.votes["Outsider"] == 3.0
        value = 10.0 * state.iteration + self.context.groups.rank
        for reduce in ("mean", "sum", "max", "min"):
            self.context.record_metric(f"outsider/{reduce}", torch.tensor(value), reduce)
        self.context.record_metric("outsider/rank_1", value if self.context.groups.rank else None, "max")

    def after_report(self, state, report):
        report.metrics["outsider/steps"] = self.steps
        report.metrics["outsider/losses"] = len(self.losses)

    def state_dict(self):
        return {"steps": self.steps, "losses": self.losses}

    def load_state_dict(self, state):
        self.steps, self.losses = state["steps"], state["losses"]
'''


GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "training.md"


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A folder with an installed package that provides the callback `outsider`, and that of the guide."""
    example = GUIDE.read_text(encoding="utf-8").partition("```python\n# module my_package")[2].partition("```")[0]
    folder = tmp_path / "site"
    modules = {"outsider": MODULE, "outsider_example": f"#{example}"}
    points = {"outsider": "outsider:Outsider", "reject-jumps": "outsider_example:RejectJumps"}
    install(folder, modules, "megatron_ipt.callbacks", points)
    return folder


def test_callback_of_another_package(plugin: Path, pool: WorkerPool, make_config: Any) -> None:
    """It rejects an update, records metrics, votes, and resumes within an interval from its saved state."""
    training = {"train_iters": 6, "log_interval": 4, "eval_iters": 0, "callbacks": ["reject-jumps", "outsider"]}
    for exit_interval in (3, 6):
        config = make_config("run", training={**training, "exit_interval": exit_interval})
        pool.run(2, callback_jobs.pretrain_with_plugin, config, str(plugin))
    names = {file.name for file in iteration_folder(Path(config["run"]), 3).iterdir()}
    assert {"callbacks.json", "callbacks.safetensors"} <= names
    first, last = (row for row in read_metrics(Path(config["run"]) / "metrics.jsonl") if "lm_loss" in row)
    values = [10.0 * iteration + rank for iteration in (1, 2, 3, 4) for rank in (0, 1)]
    assert {name: first[f"outsider/{name}"] for name in ("mean", "sum", "max", "min", "rank_1")} == {
        "mean": sum(values) / 8,
        "sum": sum(values),
        "max": 41.0,
        "min": 10.0,
        "rank_1": 41.0,
    }
    assert first["rejected_jumps"] == last["rejected_jumps"] == 0.0
    assert (first["skipped_steps"], first["outsider/steps"], first["outsider/losses"]) == (1, 4, 4)
    assert (last["skipped_steps"], last["outsider/steps"], last["outsider/losses"]) == (1, 6, 6)
    assert (last["outsider/mean"], last["outsider/min"]) == (55.5, 50.0)


def test_one_collective_per_step_and_one_per_log_interval(pool: WorkerPool, make_config: Any) -> None:
    """A checkpoint that is begun at iteration 4 and written until iteration 9 adds none in between."""
    training = {"train_iters": 9, "log_interval": 3, "eval_iters": 0}
    config = make_config("run", training=training, checkpoint={"save_interval": 4})
    for counts in pool.run(2, callback_jobs.collectives_by_iteration, config, 7):
        assert counts[:3] == [1, 1, 2]
        assert counts[4:7] == [1, 2, 1]


MEGATRON_CORE = {
    "clip_grads.py:get_grad_norm_fp32",
    "utils.py:local_multi_tensor_l2_norm",  # of the layers without Transformer Engine
    "cross_entropy.py:calculate_predicted_logits",  # by a mask, with one value: torch fills, and does not wait
    "gpt_dataset.py:__getitem__",  # on the host
}
"""What is recognized in megatron-core's own code."""


def test_one_synchronization_per_step_besides_those_of_megatron_core(pool: WorkerPool, make_config: Any) -> None:
    """The step's reduction is read once; megatron-core reads the norm of the gradients."""
    training = {"train_iters": 5, "log_interval": 3, "eval_iters": 0}
    config = make_config("run", training=training, checkpoint={"save_interval": 100})
    for iterations in pool.run(2, callback_jobs.synchronizations_by_iteration, config):
        ours, others = zip(*iterations[:4], strict=True)
        assert list(ours[:2]) == [["step_reduction.py:__call__"]] * 2
        assert len(ours[2]) > 1, "a report reads more"
        assert ours[3] == ["step_reduction.py:__call__"]
        assert set(others[0]) == MEGATRON_CORE


def test_ranks_that_record_different_metrics(pool: WorkerPool, make_config: Any) -> None:
    config = make_config("run", training={"train_iters": 2, "eval_iters": 0}, schedule={"lr_warmup_iters": 1})
    answers = pool.run(2, callback_jobs.refused_recording, config)
    assert all("other ranks recorded different metrics" in answer for answer in answers)
