"""The checkpoints of a run: saving never damages earlier ones, and loading takes the newest that is intact."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from torch.distributed.checkpoint.api import CheckpointException

from megatron_ipt.checkpointing.background import BackgroundWriter, WriterKilled
from megatron_ipt.checkpointing.callback_states import CallbackState, write_callback_states
from megatron_ipt.checkpointing.contents import (
    Contents,
    files_of,
    find_damage,
    read_contents,
    record_files,
)
from megatron_ipt.checkpointing.layout import (
    CONTENTS_NAME,
    RUN_CONFIG_NAME,
    abandon,
    checkpoints_folder,
    incomplete_folders,
    iteration_folder,
    iteration_folders,
    partial_folder,
    partial_folders,
    reachable_iterations,
)
from megatron_ipt.checkpointing.publishing import publish
from megatron_ipt.checkpointing.retention import remove_superseded
from megatron_ipt.checkpointing.run_lock import RunLock
from megatron_ipt.checkpointing.shared_folder import check_is_shared
from megatron_ipt.config.pretrain import CheckpointConfig
from megatron_ipt.corpus.manifest import Manifest
from megatron_ipt.errors import UserError
from megatron_ipt.parallel.agreement import broadcast_from_main, gather
from megatron_ipt.parallel.child_processes import ignoring_stop_signals
from megatron_ipt.parallel.groups import Groups

T = TypeVar("T")


class CheckpointStore:
    """Checkpoints under RUN/checkpoints; every method but `is_writing_here` is a collective call."""

    def __init__(
        self, run: Path, groups: Groups, lineage: Manifest, *, rule: CheckpointConfig, log: Callable[[str], None]
    ) -> None:
        """Take the run lock, and remove the remains of interrupted saves; a collective call.

        Args:
            run: the run folder.
            groups: the process groups.
            lineage: the manifest of the run; each checkpoint has a copy, as a complete stage.
            rule: which checkpoints are kept.
            log: called with lines for the log.

        Raises:
            UserError: a node does not see the run folder of rank 0.
        """
        self._run, self._groups, self._lineage = run, groups, lineage
        self._rule, self._log = rule, log
        self._writer = BackgroundWriter(groups)
        self._pending: tuple[Path, Contents] | None = None
        self._lock = RunLock(run) if self._is_main else None
        self._mark = broadcast_from_main(self._lock.mark if self._lock is not None else "")
        check_is_shared(run, self._mark)
        if self._is_main:
            for folder in partial_folders(run):
                log(f"removing {folder}, which was not finished")
                # writers of a killed run may still be writing into it
                shutil.rmtree(folder, ignore_errors=True)

    def save(self, progress: Contents, run_config: Path, write: Callable[[Path], AsyncRequest | None]) -> Path:
        """Call `begin_save` and `finish_save`, and return the folder of the checkpoint.

        Raises:
            UserError: it cannot be written; earlier checkpoints are unchanged.
            WriterKilled: a writing process was killed; earlier checkpoints are unchanged.
        """
        self.begin_save(progress, run_config, write)
        folder = self.finish_save()
        assert folder is not None
        return folder

    def begin_save(
        self,
        progress: Contents,
        run_config: Path,
        write: Callable[[Path], AsyncRequest | None],
        callback_states: Mapping[str, CallbackState] | None = None,
    ) -> None:
        """Start a save, which `finish_save` completes.

        Args:
            progress: the contents of the checkpoint, without its files.
            run_config: copied into the checkpoint.
            write: writes into an empty folder, or returns a request to be written in the background.
            callback_states: saved by rank 0.

        Raises:
            UserError: it cannot be written; earlier checkpoints are unchanged.
            WriterKilled: a writing process was killed; earlier checkpoints are unchanged.
        """
        self.finish_save()
        partial = partial_folder(self._run, progress.iteration, self._mark)
        with self._explaining_failures(partial):
            self._begin(partial, run_config, write, callback_states or {})
        self._pending = (partial, progress)

    def is_writing_here(self) -> bool:
        """Return whether a process of this rank is writing a checkpoint."""
        return self._writer.is_writing_here()

    def finish_save(self) -> Path | None:
        """Wait until the started checkpoint is written, finalize it, and remove superseded ones.

        Finalizing writes checkpoint.json, renames the folder and marks it as the newest.

        Returns:
            Its folder; None if no save was started.

        Raises:
            UserError: it cannot be written; earlier checkpoints are unchanged.
            WriterKilled: a writing process was killed; earlier checkpoints are unchanged.
        """
        if self._pending is None:
            return None
        partial, progress = self._pending
        with self._explaining_failures(partial):
            self._writer.wait()
            self._pending = None
            return self._finish(partial, progress)

    def newest_intact(self) -> tuple[Path, Contents] | None:
        """Return the newest intact checkpoint, or None without checkpoints; damaged ones are logged.

        Raises:
            UserError: there are checkpoints, but none is intact.
        """
        self.finish_save()
        candidates, others = broadcast_from_main((reachable_iterations(self._run), incomplete_folders(self._run)))
        for folder in others:
            self._log(f"ignoring {folder}, which has no {CONTENTS_NAME}")
        for iteration in candidates:
            folder = iteration_folder(self._run, iteration)
            contents, damage = self.inspect(folder)
            if contents is not None and damage is None:
                if self._is_main:
                    self._set_aside_later(iteration)
                return folder, contents
            self._log(f"checkpoint {folder} is damaged ({damage}); falling back to the previous one")
        if candidates or others:
            raise UserError(
                "run",
                self._run,
                "it has checkpoints, but none of them is intact",
                f"restore one from a backup, or move {checkpoints_folder(self._run)} away to start from the beginning",
            )
        return None

    def inspect(self, folder: Path) -> tuple[Contents | None, str | None]:
        """Check the checkpoint in `folder`, of any run.

        Returns:
            Its contents, None if they cannot be read; and a description of the damage, None if it is intact.
        """
        try:
            contents = read_contents(folder)
        except ValueError as error:
            return None, str(error)
        found = self._gathered([find_damage(folder, self._mine(contents.files))])
        return contents, next((damage for damage in found if damage is not None), None)

    @contextmanager
    def _explaining_failures(self, partial: Path) -> Iterator[None]:
        try:
            yield
        except (OSError, CheckpointException, WriterKilled) as error:
            self._pending = None
            free_bytes = shutil.disk_usage(self._run).free
            if self._lock is not None:
                shutil.rmtree(partial, ignore_errors=True)
                self._lock.check()
            if isinstance(error, WriterKilled):
                raise
            raise UserError(
                "checkpoint",
                partial,
                f"it could not be written: {_cause(error)} ({free_bytes:,} bytes were free)",
                "free space or repair the file system; the same command resumes from the previous checkpoint",
            ) from error

    def _begin(
        self,
        partial: Path,
        run_config: Path,
        write: Callable[[Path], AsyncRequest | None],
        callback_states: Mapping[str, CallbackState],
    ) -> None:
        if self._lock is not None:
            self._lock.check()
            partial.mkdir()
        dist.barrier()
        with ignoring_stop_signals():
            self._writer.serve_results()
            if (request := write(partial)) is not None:
                self._writer.start(request, partial)
        if self._is_main:
            shutil.copyfile(run_config, partial / RUN_CONFIG_NAME)
            if callback_states:
                write_callback_states(partial, callback_states)

    def _finish(self, partial: Path, progress: Contents) -> Path:
        folder = iteration_folder(self._run, progress.iteration)
        dist.barrier()
        records = self._gathered(self._writer.take_records())
        recorded = {partial / record.path for record in records}
        others = [file for file in broadcast_from_main(files_of(partial)) if file not in recorded]
        records += self._gathered(record_files(partial, self._mine(others)))
        if self._lock is not None:
            contents = replace(progress, files=sorted(records, key=lambda record: record.path))
            publish(self._run, partial, contents, self._lineage, self._lock)
            remove_superseded(self._run, progress.iteration, self._rule, self._log)
        dist.barrier()
        return folder

    def _set_aside_later(self, resumed: int) -> None:
        """Rename checkpoints after the iteration that the run resumes from: they are not part of its history."""
        for iteration, folder in iteration_folders(self._run).items():
            if iteration > resumed:
                self._log(f"{folder} is later than iteration {resumed}: renamed to {abandon(folder).name}")

    @property
    def _is_main(self) -> bool:
        return self._groups.rank == 0

    def _mine(self, items: list[T]) -> list[T]:
        return items[self._groups.rank :: self._groups.world_size]

    def _gathered(self, items: list[T]) -> list[T]:
        """Return the concatenated lists of all ranks."""
        return [item for part in gather(items) for item in part]


def _cause(error: OSError | CheckpointException) -> str:
    if isinstance(error, OSError):
        return str(error)
    causes = [str(cause) for cause, _ in error.failures.values()]
    return causes[0] if causes else "see the output of the other ranks"
