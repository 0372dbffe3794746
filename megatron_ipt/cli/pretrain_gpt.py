"""Train a decoder-only model with megatron-core, in one process or under torchrun or srun."""

from __future__ import annotations

import os
from collections.abc import Sequence

from megatron_ipt.cli.command import Outcome, run_stage
from megatron_ipt.config.layout import ranks_per_replica
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.parallel.slurm_ranks import adopt_slurm_ranks


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `megatron-ipt pretrain` (tools/pretrain_gpt.py) and return its exit code."""
    adopt_slurm_ranks(os.environ)
    return run_stage("pretrain", _pretrain, arguments, __doc__, dry_run=_describe)


def _describe(config: PretrainConfig) -> Outcome:
    """Describe the run for `--dry-run`: on WORLD_SIZE ranks or, if that is not set, on the ranks of one replica."""
    from megatron_ipt.cli.run_description import describe_run, print_description

    description = describe_run(config, int(os.environ.get("WORLD_SIZE", ranks_per_replica(config.parallel))))
    return Outcome(lambda: print_description(description), description)


def _pretrain(config: PretrainConfig) -> Outcome:
    from megatron_ipt.training.preflight import check, is_finished, open_stage
    from megatron_ipt.training.signals import StopSignals

    stop_signals = StopSignals()
    stop_signals.listen()
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    check(config, world_size)
    stage = open_stage(config)
    is_done = is_finished(config, stage)
    if not is_done or world_size > 1:  # other ranks may not see that the run is finished
        from megatron_ipt.training.environment import set_environment

        set_environment(config)
        from megatron_ipt.training.pretraining import pretrain  # imports torch

        pretrain(config, stage=stage, stop_signals=stop_signals)
    outcome = {"run": config.run, "iteration": config.training.train_iters}
    if is_done:
        text = f"{config.run} has already been trained for {config.training.train_iters} iterations: skipped"
        return Outcome(lambda: print(text), {**outcome, "status": "skipped"})
    return Outcome(lambda: None, {**outcome, "status": "complete"})
