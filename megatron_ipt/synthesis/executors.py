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
    if config.kind == "ray":
        for phase in phases:
            _ray(config, phase, log_folder).run()
        return True
    last: Any = None
    for phase in phases:
        last = _slurm(config, phase, log_folder, last)
    last.run()  # submits those it depends on first
    return False


def _local(phase: Phase, log_folder: Path) -> Any:
    from datatrove.executor import LocalPipelineExecutor

    return LocalPipelineExecutor(**_settings(phase, log_folder), workers=phase.tasks)


def _slurm(config: ExecutorConfig, phase: Phase, log_folder: Path, former: Any) -> Any:
    from datatrove.executor import SlurmPipelineExecutor

    return SlurmPipelineExecutor(
        **_settings(phase, log_folder),
        **_resources(config),
        time=config.time,
        partition=config.partition,
        job_name=f"synthesize-{phase.name}",
        depends=former,
    )


def _ray(config: ExecutorConfig, phase: Phase, log_folder: Path) -> Any:
    from datatrove.executor.ray import RayPipelineExecutor

    return RayPipelineExecutor(**_settings(phase, log_folder), **_resources(config), workers=phase.tasks)


def _settings(phase: Phase, log_folder: Path) -> dict[str, Any]:
    """Completion markers are left aside: they name ranks, and the number of workers may change from run to run."""
    return {
        "pipeline": [lambda data, rank, world_size: phase.work(rank, world_size)],
        "tasks": phase.tasks,
        "logging_dir": str(log_folder / phase.name),
        "skip_completed": False,
    }


def _resources(config: ExecutorConfig) -> dict[str, int]:
    return {"cpus_per_task": config.cpus_per_task, "gpus_per_task": config.gpus_per_task}
