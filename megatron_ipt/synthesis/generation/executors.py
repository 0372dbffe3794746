"""Run the phases of a synthesis: in this process, in worker processes, or with datatrove's executors."""

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
    """One phase of the synthesis; it begins once the previous phase has ended on all workers.

    Attributes:
        name: the name of the phase.
        work: called on each worker with its index and the number of workers.
        tasks: the number of workers.
    """

    name: str
    work: Callable[[int, int], None]
    tasks: int


def find_executor_problems(config: ExecutorConfig) -> list[Problem]:
    """Find problems with the settings."""
    if config.kind == "slurm" and not config.partition:
        return [Problem("executor.partition", config.partition, "required by the Slurm executor", "set a partition")]
    return []


def run_phases(config: ExecutorConfig, phases: Sequence[Phase], log_folder: Path) -> None:
    """Run the phases one after another: in this process, in worker processes, or on Ray.

    The first exception in a worker terminates all workers and is raised here.

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
    """Submit the phases to Slurm, each as a job array that waits for the previous one; return the id of the last."""
    last: Any = None
    for phase in phases:
        last = _slurm(config, phase, log_folder, last)
    last.run()  # datatrove first submits the executors that this one depends on
    return int(last.job_id)


def gpus_of(worker: int, gpus_per_task: int, visible: str | None) -> str:
    """Return CUDA_VISIBLE_DEVICES for a worker on this machine; without it, all workers would use the first GPU.

    Args:
        worker: the index of the worker.
        gpus_per_task: the number of GPUs per worker.
        visible: CUDA_VISIBLE_DEVICES of the parent process; None if it is not set, for all GPUs.
    """
    own = range(worker * gpus_per_task, (worker + 1) * gpus_per_task)
    names = [str(number) for number in range(own.stop)] if visible is None else visible.split(",")
    return ",".join(names[own.start : own.stop])


def _work(phase: Phase, gpus_per_task: int, visible: str | None, worker: int) -> None:
    if gpus_per_task:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus_of(worker, gpus_per_task, visible)
    phase.work(worker, phase.tasks)


def _slurm(config: ExecutorConfig, phase: Phase, log_folder: Path, previous: Any) -> Any:
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
        depends=previous,
    )


def _run_on_ray(config: ExecutorConfig, phase: Phase, log_folder: Path) -> None:
    """Run a phase on Ray.

    datatrove's executor only logs the exceptions of workers and then returns normally, so workers write their failures
    to files, which are read afterwards.
    """
    from datatrove.executor.ray import RayPipelineExecutor

    folder = log_folder / phase.name
    failures = folder / "failures"
    for stale in (failures, folder / "completions"):
        shutil.rmtree(stale, ignore_errors=True)
    failures.mkdir(parents=True)
    recording = replace(phase, work=lambda worker, workers: record_failure(phase, failures, worker))
    executor = RayPipelineExecutor(**_settings(recording, log_folder), **_resources(config), workers=phase.tasks)
    executor.run()
    for file in sorted(failures.iterdir()):
        raise read_failure(file)
    if executor.get_incomplete_ranks(skip_completed=True):
        raise worker_killed(phase.name)


def record_failure(phase: Phase, folder: Path, worker: int) -> None:
    """Do the work of one worker; write a failure to a file in `folder`, and raise it."""
    try:
        phase.work(worker, phase.tasks)
    except Exception as error:
        failure = portable_failure(error, phase.name, worker)
        problems = [asdict(problem) for problem in failure.problems] if isinstance(failure, UserError) else []
        is_temporary = isinstance(failure, TemporaryFailure)
        record = json.dumps({"message": str(failure), "problems": problems, "is_temporary": is_temporary}, default=str)
        (folder / f"{worker:05d}.json").write_text(record, encoding="utf-8")
        raise


def read_failure(file: Path) -> UserError | TemporaryFailure | RuntimeError:
    """Read a failure that `record_failure` wrote."""
    record = json.loads(file.read_text(encoding="utf-8"))
    if record["problems"]:
        return UserError.of(Problem(**problem) for problem in record["problems"])
    return TemporaryFailure(record["message"]) if record["is_temporary"] else RuntimeError(record["message"])


def _settings(phase: Phase, log_folder: Path) -> dict[str, Any]:
    return {
        "pipeline": [lambda data, rank, world_size: phase.work(rank, world_size)],
        "tasks": phase.tasks,
        "logging_dir": str(log_folder / phase.name),
        "skip_completed": False,  # datatrove's markers name ranks, but the number of workers may change between runs
    }


def _resources(config: ExecutorConfig) -> dict[str, int]:
    return {"cpus_per_task": config.cpus_per_task, "gpus_per_task": config.gpus_per_task}
