"""Local checkpoints: the state of each rank, saved often on its node's own disk.

They are for restarts on the same nodes with the same layout, and only until there is a newer shared checkpoint. Each
rank writes and removes its own without coordination; the ranks compare them only when a run resumes.

A history is an uninterrupted sequence of steps, to which local checkpoints belong. RUN/checkpoints/.local_history holds
its name, which is also the name of its folder on each node. A run that starts from the beginning or resumes from a
shared checkpoint begins a new history. Checkpoints of an earlier history that a node still has are never used: the run
may have repeated their steps with different results.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from glob import escape
from pathlib import Path

import torch

from megatron_ipt.checkpointing.callback_states import STATES_NAME, CallbackState, read_callback_states
from megatron_ipt.checkpointing.contents import Contents
from megatron_ipt.checkpointing.layout import read_latest
from megatron_ipt.checkpointing.local_agreement import (
    Found,
    Shared,
    choose,
    end_history,
    history_file,
    read_shared,
    record_progress,
)
from megatron_ipt.checkpointing.local_files import (
    RankContents,
    inspect,
    iteration_folder,
    read_contents,
    write_checkpoint,
)
from megatron_ipt.checkpointing.local_files import saved_iterations as local_iterations
from megatron_ipt.checkpointing.rank_state import RankState
from megatron_ipt.corpus.manifest import write_atomically
from megatron_ipt.errors import UserError
from megatron_ipt.parallel.agreement import broadcast_from_main, gather
from megatron_ipt.parallel.groups import Groups

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalCheckpoint:
    """This rank's part of a local checkpoint that all ranks have."""

    folder: Path
    contents: RankContents
    callback_states: Mapping[str, CallbackState]
    """The states that rank 0 saved; the same on all ranks."""


class LocalStore:
    """The local checkpoints of a run; `find` and the constructor are collective calls."""

    def __init__(
        self, folder: Path, run: Path, groups: Groups, identity: object, *, log: Callable[[str], None]
    ) -> None:
        """Check that every rank can write into `folder`.

        Args:
            folder: a folder on each node's own disk.
            run: the run folder.
            groups: the process groups.
            identity: settings and inputs that must be the same when the run resumes, compared by their `repr`.
            log: called with each line for the log.

        Raises:
            UserError: a rank cannot write there; raised on all ranks.
        """
        self._folder, self._run, self._groups, self._log = folder, run, groups, log
        # rank 0's, because the run folder may have a different path on other nodes
        self._of_run = broadcast_from_main(f"{run.resolve().name}-{_digest(str(run.resolve()))}-")
        self._of_settings = f"{self._of_run}{broadcast_from_main(_digest(identity))}-"
        self._history = self._attempt = ""
        self._has_begun = False
        self._of_all_ranks: int | None = None
        """The newest checkpoint that every rank is known to have."""
        self._of_this_rank: int | None = None
        self._writing: Future[Path] | None = None
        _check_writable(folder)

    def find(self, description: str) -> LocalCheckpoint | None:
        """Return the newest local checkpoint that all ranks have, if it is newer than the shared one.

        If there is none, the run begins a new history with its next save. Until then, the nodes keep the local
        checkpoints that they have: the run may have been started with a wrong setting, or without the disk of a node.

        Args:
            description: the description of the state that this rank would load.
        """
        self._attempt = broadcast_from_main(secrets.token_hex(4))
        shared = broadcast_from_main(read_shared(self._run) if self._is_main else None)
        assert shared is not None
        iteration, reason = self._agree(shared, description)
        self._of_all_ranks = self._of_this_rank = iteration
        self._has_begun = iteration is not None
        if iteration is None:
            if shared.history is not None:
                self._log(f"no local checkpoint is used: {reason}")
            if shared.was_reset and self._is_main:
                end_history(self._run)  # the later ones will be renamed, so the next start cannot detect the reset
            self._history = broadcast_from_main(f"{self._of_settings}{secrets.token_hex(4)}")
            return None
        self._log(f"using the local checkpoint of iteration {iteration}, which is newer than the shared ones")
        folder = iteration_folder(self._rank_folder, iteration)
        states = read_callback_states(folder) if (folder / STATES_NAME).is_file() else {}
        return LocalCheckpoint(folder, read_contents(folder), broadcast_from_main(states))

    def begin_history(self) -> None:
        """Begin a new history unless this run continues one or has already begun one; not a collective call.

        This removes the checkpoints of the run's other histories from this node. It is called with the first save,
        local or shared, after which the other histories are out of date.
        """
        if self._has_begun:
            return
        self._has_begun = True
        if self._is_main:
            # records of progress stay: a repeated step is none
            write_atomically(history_file(self._run), f"{self._history}\n")
        with suppress(OSError):  # a broken disk costs local checkpoints alone
            for path in self._folder.glob(f"{escape(self._of_run)}*"):
                if path.name != self._history:
                    shutil.rmtree(path, ignore_errors=True)

    def begin_save(self, progress: Contents, state: RankState, callback_states: Mapping[str, CallbackState]) -> None:
        """Start writing this rank's part of a checkpoint in the background; not a collective call.

        Args:
            progress: the contents of the checkpoint, without its files.
            state: a copy of this rank's state.
            callback_states: by callback name; only rank 0 saves them.
        """
        assert self._writing is None
        self.begin_history()
        contents = RankContents(
            iteration=progress.iteration,
            consumed_train_samples=progress.consumed_train_samples,
            validation_loss=progress.validation_loss,
            steps=state.steps,
            shared_iteration=(read_latest(self._run) or 0) if self._is_main else 0,
            layout=self._layout,
            description=state.description,
            attempt=self._attempt,
            files=[],
        )
        states = _copied(callback_states) if self._is_main else {}
        # the two differ until every rank is known to have written the newest one
        kept = {iteration for iteration in (self._of_all_ranks, self._of_this_rank) if iteration is not None}
        threads = ThreadPoolExecutor(1, "local_checkpoint")
        self._writing = threads.submit(write_checkpoint, self._rank_folder, contents, state.tensors, states, kept)
        threads.shutdown(wait=False)

    def is_writing(self) -> bool:
        """Return whether this rank is writing a checkpoint."""
        return self._writing is not None and not self._writing.done()

    def has_failed(self) -> bool:
        """Return whether this rank failed to write the checkpoint it started; False once `finish_save` has raised."""
        return self._writing is not None and self._writing.done() and self._writing.exception() is not None

    def finish_save(self, iteration: int) -> Path | None:
        """Wait until the checkpoint of `iteration` is written, and return its folder; None if no save was started.

        Raises:
            OSError: it cannot be written; earlier checkpoints are unchanged.
            UserError: the state of a callback cannot be saved.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return None
        folder = writing.result()
        self._of_this_rank = iteration
        return folder

    def confirm(self, iteration: int) -> None:
        """Note that all ranks have written the checkpoint of `iteration`, so that older ones are no longer needed."""
        if iteration <= (self._of_all_ranks or 0):
            return
        self._of_all_ranks = iteration
        if self._is_main:
            record_progress(self._run, iteration)

    def clear(self) -> None:
        """Remove the local checkpoints of this rank, because a newer shared one has been saved.

        A run that has saved nothing leaves those of earlier starts.
        """
        if not self._has_begun:
            return
        if self._is_main:
            end_history(self._run, self._history)
        shutil.rmtree(self._rank_folder, ignore_errors=True)
        with suppress(OSError):
            self._rank_folder.parent.rmdir()  # succeeds on the last rank of the node

    def _agree(self, shared: Shared, description: str) -> tuple[int | None, str]:
        """Return the iteration that all ranks resume from; or None and the reason, empty if there is no history."""
        if shared.history is None:
            return None, ""
        if not shared.history.startswith(self._of_settings):
            return None, "they were saved with different settings or data, or the run folder was moved"
        if shared.was_reset:
            return None, f"the run was reset to iteration {shared.newest}"
        self._history = shared.history
        found = gather((platform.node(), self._inspect_own(shared.newest, description)))
        return choose(found, shared.newest)

    def _inspect_own(self, newest_shared: int, description: str) -> Found:
        """Inspect this rank's checkpoints after the newest shared one."""
        try:
            return {
                iteration: inspect(
                    iteration_folder(self._rank_folder, iteration), self._layout, description, newest_shared
                )
                for iteration in local_iterations(self._rank_folder)
                if iteration > newest_shared
            }
        except OSError as error:
            logger.warning("%s: local checkpoints cannot be read: %s", self._rank_folder, error)
            return {}

    @property
    def _rank_folder(self) -> Path:
        assert self._history, "before `find`"
        return self._folder / self._history / f"rank_{self._groups.rank:05d}"

    @property
    def _layout(self) -> str:
        groups = self._groups
        virtual = f" x virtual {groups.virtual_size}" if groups.virtual_size else ""
        return f"rank {groups.rank} of {groups.layout}{virtual}"

    @property
    def _is_main(self) -> bool:
        return self._groups.rank == 0


def _check_writable(folder: Path) -> None:
    """Write a file into `folder` on every rank; a collective call.

    Raises:
        UserError: a rank cannot write; raised on all ranks.
    """
    reason = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as handle:
            handle.write(b"x")
    except OSError as error:
        reason = str(error)
    for rank, (node, found) in enumerate(gather((platform.node(), reason))):
        if found is not None:
            raise UserError(
                "checkpoint.local_folder",
                folder,
                f"rank {rank} on {node} cannot write there: {found}",
                "name a folder that is writable on every node, or leave it unset",
            )


def _copied(states: Mapping[str, CallbackState]) -> dict[str, CallbackState]:
    """Copy the states of callbacks, which may change while they are written; tensors are copied to host memory."""
    return {
        name: {
            key: value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else deepcopy(value)
            for key, value in state.items()
        }
        for name, state in states.items()
    }


def _digest(*values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:8]
