"""Parameter groups, schedules and batch sizes."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from megatron.core import num_microbatches_calculator
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

from megatron_ipt.config.batch_sizes import BatchSizes
from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import (
    OptimizerConfig,
    ParallelConfig,
    PrecisionConfig,
    ScheduleConfig,
    TrainingConfig,
)
from megatron_ipt.errors import UserError
from megatron_ipt.models.gpt import build_gpt_chunks
from megatron_ipt.models.transformer_config import transformer_config
from megatron_ipt.optim.optimizer import build_optimizer, check_optimizer
from megatron_ipt.optim.schedule import build_schedule
from megatron_ipt.parallel.groups import Groups

MODEL = ModelConfig(vocab_size=64, num_query_groups=4)
FP32 = PrecisionConfig(bf16=False)
RAMP = TrainingConfig(train_iters=40, global_batch_size=16, rampup_batch_size=[4, 4, 60])


@pytest.fixture(scope="module")
def chunk(groups: Groups) -> DistributedDataParallel:
    parallel = ParallelConfig()
    config = transformer_config(MODEL, parallel, FP32, calculate_per_token_loss=False)
    [model] = build_gpt_chunks(MODEL, parallel, FP32, config, groups, seq_length=16)
    return DistributedDataParallel(config, DistributedDataParallelConfig(), model)


def test_norms_alone_do_not_decay(chunk: DistributedDataParallel) -> None:
    optimizer = build_optimizer(OptimizerConfig(weight_decay=0.3), ParallelConfig(), FP32, [chunk])
    names = {parameter: name for name, parameter in chunk.module.named_parameters()}
    undecayed = {names[p] for group in optimizer.param_groups if group["wd_mult"] == 0.0 for p in group["params"]}
    decayed = {names[p] for group in optimizer.param_groups if group["wd_mult"] == 1.0 for p in group["params"]}
    assert undecayed | decayed == set(names.values())
    assert undecayed == {name for name in names.values() if "norm" in name}
    assert len(undecayed) == 2 * MODEL.num_layers + 1


@pytest.mark.skipif(find_spec("emerging_optimizers") is not None, reason="Muon's package is installed here")
def test_muon_is_refused_where_it_is_not_there() -> None:
    with pytest.raises(UserError, match="Muon needs"):
        check_optimizer(OptimizerConfig(optimizer="muon"))


def test_batches_grow_evenly_and_follow_from_the_samples_consumed() -> None:
    sizes = BatchSizes(RAMP)
    consumed, seen = 0, []
    for _ in range(12):
        seen.append(sizes(consumed))
        consumed += seen[-1]
    assert seen == [4, 4, 4, 4, 4, 8, 8, 8, 12, 12, 16, 16]
    assert [sizes(0), sizes(20), sizes(1000), sizes(19)] == [4, 8, 16, 4]
    assert sizes.samples_after(12) == sum(seen)
    assert BatchSizes(TrainingConfig(global_batch_size=6)).samples_after(7) == 42


@pytest.mark.parametrize(
    ("largest", "rampup", "grows_at"),
    [
        (31, [3, 4, 40], [6, 12, 18, 23, 29, 35, 40]),
        (9, [2, 1, 35], [5, 10, 15, 20, 25, 30, 35]),
        (9, [2, 1, 18], [3, 6, 8, 11, 13, 16, 19]),  # in exact arithmetic the last is 18
    ],
)
def test_ramp_grows_where_megatron_core_0_16_lets_it_grow(largest: int, rampup: list[int], grows_at: list[int]) -> None:
    sizes = BatchSizes(TrainingConfig(global_batch_size=largest, rampup_batch_size=rampup))
    seen = [sizes(consumed) for consumed in range(rampup[2] + 10)]
    assert [consumed for consumed in range(1, len(seen)) if seen[consumed] > seen[consumed - 1]] == grows_at
    assert (seen[0], seen[-1]) == (rampup[0], largest)


RAMP_OF_MEGATRON_CORE = getattr(num_microbatches_calculator, "RampupBatchsizeNumMicroBatchesCalculator", None)


@pytest.mark.skipif(RAMP_OF_MEGATRON_CORE is None, reason="megatron-core has no ramp from 0.18 on")
def test_ramp_is_megatron_cores_wherever_it_has_one() -> None:
    generator = np.random.default_rng(3)
    for first, increment, increments, samples in generator.integers(1, (64, 64, 150, 5000), (300, 4)).tolist():
        largest = first + increment * increments
        sizes = BatchSizes(TrainingConfig(global_batch_size=largest, rampup_batch_size=[first, increment, samples]))
        reference = RAMP_OF_MEGATRON_CORE(largest, 1, 1, False, -1, first, increment, samples)
        steps = [samples * step // increments for step in range(increments + 1)]
        for consumed in {step + beside for step in steps for beside in (0, 1)}:  # where rounding decides
            reference.update(consumed, consistency_check=True)
            assert sizes(consumed) == reference.get_current_global_batch_size(), (first, increment, samples, consumed)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (ScheduleConfig(lr_decay_style="cosine", lr_warmup_iters=10), {0: 0.0, 10: 1.0, 40: 0.1}),
        (ScheduleConfig(lr_decay_style="linear", lr_warmup_iters=10), {0: 0.0, 10: 1.0, 40: 0.1}),
        (ScheduleConfig(lr_decay_style="constant", lr_warmup_iters=10), {0: 0.0, 10: 1.0, 40: 1.0}),
        (ScheduleConfig(lr_decay_style="WSD", lr_wsd_decay_iters=8), {0: 1.0, 10: 1.0, 32: 1.0, 40: 0.1}),
        (ScheduleConfig(lr_decay_style="cosine", lr_decay_iters=30), {0: 1.0, 30: 0.1, 40: 0.1}),
    ],
    ids=["cosine", "linear", "constant", "WSD", "cosine that ends early"],
)
@pytest.mark.parametrize("training", [TrainingConfig(train_iters=40), RAMP], ids=["constant batch", "growing batch"])
def test_iterations_of_the_schedule_stand_whatever_the_batch(
    chunk: DistributedDataParallel, schedule: ScheduleConfig, expected: dict[int, float], training: TrainingConfig
) -> None:
    config = OptimizerConfig(lr=1.0, min_lr=0.1)
    optimizer = build_optimizer(config, ParallelConfig(), FP32, [chunk])
    steps, sizes = build_schedule(schedule, config, training, optimizer), BatchSizes(training)
    rates, consumed = [optimizer.param_groups[0]["lr"]], 0
    for _ in range(40):
        steps.step(increment=sizes(consumed))
        consumed += sizes(consumed)
        rates.append(optimizer.param_groups[0]["lr"])
    assert {iteration: rates[iteration] for iteration in expected} == pytest.approx(expected)
    assert torch.tensor(rates[10:]).diff().max() <= 0.0
