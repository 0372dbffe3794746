"""Where the phases of a synthesis run: in this process, or through datatrove's executors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.config.synthesis import ExecutorConfig
from megatron_ipt.errors import Problem

EXECUTOR_KINDS = ("local", "slurm", "ray")


@dataclass(frozen=True)
class Phase:
    """Work for each of `tasks` workers; a phase begins when the one before it has ended everywhere.

    `work` is given the worker's number and how many there are.
    """

    name: str
    work: Callable[[int, int], None]
    tasks: int


def find_executor_problems(config: ExecutorConfig) -> list[Problem]:
    """What is wrong with the settings."""
    problems = []
    if config.kind not in EXECUTOR_KINDS:
        problems.append(
            Problem("executor.kind", config.kind, "no such executor", f"one of {', '.join(EXECUTOR_KINDS)}")
        )
    if config.workers < 1:
        problems.append(Problem("executor.workers", config.workers, "below 1", "give 1 or more"))
    if config.kind == "slurm" and not config.partition:
        problems.append(Problem("executor.partition", config.partition, "Slurm needs one", "name a partition"))
    return problems


def run_phases(config: ExecutorConfig, phases: Sequence[Phase], log_folder: Path) -> bool:
    """Run the phases one after another; False when they were only handed to Slurm."""
    if config.kind == "local":
        for phase in phases:
            if phase.tasks == 1:
                phase.work(0, 1)
            else:
                _local(phase, log_folder).run()
        return True
    former: Any = None
    for phase in phases:
        former = (_slurm if config.kind == "slurm" else _ray)(config, phase, log_folder, former)
        if config.kind == "ray":
            former.run()
    if config.kind == "slurm":
        former.run()
    return config.kind != "slurm"


def _step(phase: Phase) -> Callable[[Any, int, int], None]:
    return lambda data, rank, world_size: phase.work(rank, world_size)


def _local(phase: Phase, log_folder: Path) -> Any:
    from datatrove.executor import LocalPipelineExecutor

    return LocalPipelineExecutor(
        [_step(phase)],
        tasks=phase.tasks,
        workers=phase.tasks,
        logging_dir=str(log_folder / phase.name),
        skip_completed=False,
    )


def _slurm(config: ExecutorConfig, phase: Phase, log_folder: Path, former: Any) -> Any:
    from datatrove.executor import SlurmPipelineExecutor

    return SlurmPipelineExecutor(
        [_step(phase)],
        tasks=phase.tasks,
        time=config.time,
        partition=config.partition,
        cpus_per_task=config.cpus_per_task,
        gpus_per_task=config.gpus_per_task,
        job_name=f"synthesize-{phase.name}",
        logging_dir=str(log_folder / phase.name),
        skip_completed=False,
        depends=former,
    )


def _ray(config: ExecutorConfig, phase: Phase, log_folder: Path, former: Any) -> Any:
    from datatrove.executor.ray import RayPipelineExecutor

    return RayPipelineExecutor(
        [_step(phase)],
        tasks=phase.tasks,
        workers=phase.tasks,
        cpus_per_task=config.cpus_per_task,
        gpus_per_task=config.gpus_per_task,
        logging_dir=str(log_folder / phase.name),
        skip_completed=False,
    )
