"""The choice of the checkpoint to resume from: a local one that all ranks have, or a shared one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from megatron_ipt.checkpointing.layout import checkpoints_folder, reachable_iterations, saved_iterations
from megatron_ipt.checkpointing.local_files import Inspected

_HISTORY_NAME = ".local_history"
_PROGRESS_PREFIX = ".local_iteration_"
_MISSING = Inspected("", "it is missing")

Found = Mapping[int, Inspected]
"""The local checkpoints of a rank by iteration."""


@dataclass(frozen=True)
class Shared:
    """The shared checkpoints of a run, and the history of its local ones."""

    history: str | None
    """The name of the history that the local checkpoints belong to; None if there is none."""
    newest: int
    """The iteration of the newest shared checkpoint that the run would resume from; 0 without one."""
    was_reset: bool
    """Whether the run was reset to an earlier checkpoint: there are later shared ones that it would not resume from."""


def history_file(run: Path) -> Path:
    """Return the file that holds the name of the history."""
    return checkpoints_folder(run) / _HISTORY_NAME


def record_progress(run: Path, iteration: int) -> None:
    """Record in the run folder that all ranks have a local checkpoint of `iteration`: progress of a Slurm job.

    Only the decision to requeue the job depends on the record, so a failure to write it is ignored.
    """
    with suppress(OSError):
        records = list(checkpoints_folder(run).glob(f"{_PROGRESS_PREFIX}*"))
        if all(int(record.name.removeprefix(_PROGRESS_PREFIX)) < iteration for record in records):
            (checkpoints_folder(run) / f"{_PROGRESS_PREFIX}{iteration:07d}").touch()
            for record in records:
                record.unlink()


def end_history(run: Path, history: str | None = None) -> None:
    """Remove the history's name and progress from the run folder; if `history` is given, only if it is that one."""
    if history is not None and read_history(run) != history:
        return
    for file in (history_file(run), *checkpoints_folder(run).glob(f"{_PROGRESS_PREFIX}*")):
        file.unlink(missing_ok=True)


def read_history(run: Path) -> str | None:
    """Return the name of the history; None if there is none."""
    file = history_file(run)
    return file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else None


def choose(found: Sequence[tuple[str, Found]], newest_shared: int) -> tuple[int | None, str]:
    """Choose the newest local checkpoint that all ranks can use.

    Args:
        found: for each rank, its node and its local checkpoints after iteration `newest_shared`.
        newest_shared: the iteration of the shared checkpoint.

    Returns:
        Its iteration and an empty string; or None and the reason why the newest one cannot be used.
    """
    iterations = sorted({iteration for _, of_rank in found for iteration in of_rank}, reverse=True)
    problems = []
    for iteration in iterations:
        problem = _problem(iteration, found)
        if problem is None:
            return iteration, ""
        problems.append(problem)
    return None, problems[0] if problems else f"no rank has one after iteration {newest_shared}"


def _problem(iteration: int, found: Sequence[tuple[str, Found]]) -> str | None:
    """Return why the ranks cannot resume from `iteration`; None if they can."""
    attempts = set()
    for rank, (node, of_rank) in enumerate(found):
        saved = of_rank.get(iteration, _MISSING)
        if saved.problem is not None:
            return f"iteration {iteration} of rank {rank} on {node}: {saved.problem}"
        attempts.add(saved.attempt)
    return f"iteration {iteration}: ranks saved it in different attempts" if len(attempts) > 1 else None


def read_shared(run: Path) -> Shared:
    """Read the shared checkpoints and the history in the run folder; for rank 0."""
    saved, reachable = saved_iterations(run), reachable_iterations(run)
    newest = reachable[0] if reachable else 0
    return Shared(read_history(run), newest, was_reset=any(iteration > newest for iteration in saved))
