"""Where the phases of a synthesis run: in this process, in others of this machine, or through datatrove's executors."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from megatron_ipt.config.synthesis import ExecutorConfig
from megatron_ipt.errors import Problem, TemporaryFailure, UserError
from megatron_ipt.synthesis.generation.worker_processes import portable_failure, run_workers, worker_killed


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
    if config.kind == "slurm" and not config.partition:
        return [Problem("executor.partition", config.partition, "Slurm needs one", "name a partition")]
    return []


def run_phases(config: ExecutorConfig, phases: Sequence[Phase], log_folder: Path) -> None:
    """Run the phases one after another, in this process or in workers of it or of Ray.

    The first exception in a worker ends all of them and is raised here.

    Raises:
        TemporaryFailure: a worker was killed.
    """
    for phase in phases:
        if config.kind == "ray":
            _run_on_ray(config, phase, log_folder)
        elif phase.tasks == 1:
            phase.work(0, 1)
        else:
            work = partial(_work, phase, config.gpus_per_task, os.environ.get("CUDA_VISIBLE_DEVICES"))
            run_workers(phase.name, work, phase.tasks)


def submit_phases(config: ExecutorConfig, phases: Sequence[Phase], log_folder: Path) -> int:
    """Hand the phases to Slurm, each an array of jobs that waits for the one before; the number of the last."""
    last: Any = None
    for phase in phases:
        last = _slurm(config, phase, log_folder, last)
    last.run()  # submits those it depends on first
    return int(last.job_id)


def gpus_of(worker: int, gpus_per_task: int, visible: str | None) -> str:
    """CUDA_VISIBLE_DEVICES of one of several workers of this machine, out of those that are `visible` to them all.

    Without that, every worker would take the first GPU. Of all GPUs where `visible` is None.
    """
    own = range(worker * gpus_per_task, (worker + 1) * gpus_per_task)
    names = [str(number) for number in range(own.stop)] if visible is None else visible.split(",")
    return ",".join(names[own.start : own.stop])


def _work(phase: Phase, gpus_per_task: int, visible: str | None, worker: int) -> None:
    if gpus_per_task:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus_of(worker, gpus_per_task, visible)
    phase.work(worker, phase.tasks)


def _slurm(config: ExecutorConfig, phase: Phase, log_folder: Path, former: Any) -> Any:
    from datatrove.executor import SlurmPipelineExecutor

    return SlurmPipelineExecutor(
        **_settings(phase, log_folder),
        **_resources(config),
        time=config.time,
        partition=config.partition,
        qos=None,
        job_name=f"synthesize-{phase.name}",
        env_command=f"export PATH={Path(sys.executable).parent}:$PATH",
        sbatch_args={"kill-on-invalid-dep": "yes"},
        depends=former,
    )


def _run_on_ray(config: ExecutorConfig, phase: Phase, log_folder: Path) -> None:
    """Run a phase on Ray; datatrove's executor logs the exceptions of workers, and returns as if all were well."""
    from datatrove.executor.ray import RayPipelineExecutor

    folder = log_folder / phase.name
    failures = folder / "failures"
    for former in (failures, folder / "completions"):
        shutil.rmtree(former, ignore_errors=True)
    failures.mkdir(parents=True)
    noting = replace(phase, work=lambda worker, workers: note_failure(phase, failures, worker))
    executor = RayPipelineExecutor(**_settings(noting, log_folder), **_resources(config), workers=phase.tasks)
    executor.run()
    for file in sorted(failures.iterdir()):
        raise read_failure(file)
    if executor.get_incomplete_ranks(skip_completed=True):
        raise worker_killed(phase.name)


def note_failure(phase: Phase, folder: Path, worker: int) -> None:
    """Do the work, and note a failure where the process that started this reads it."""
    try:
        phase.work(worker, phase.tasks)
    except Exception as error:
        failure = portable_failure(error, phase.name, worker)
        problems = [asdict(problem) for problem in failure.problems] if isinstance(failure, UserError) else []
        is_temporary = isinstance(failure, TemporaryFailure)
        noted = json.dumps({"message": str(failure), "problems": problems, "is_temporary": is_temporary}, default=str)
        (folder / f"{worker:05d}.json").write_text(noted, encoding="utf-8")
        raise


def read_failure(file: Path) -> UserError | TemporaryFailure | RuntimeError:
    """A failure that `note_failure` noted."""
    noted = json.loads(file.read_text(encoding="utf-8"))
    if noted["problems"]:
        return UserError.of(Problem(**problem) for problem in noted["problems"])
    return TemporaryFailure(noted["message"]) if noted["is_temporary"] else RuntimeError(noted["message"])


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
