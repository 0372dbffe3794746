"""The run lock: only one job at a time writes checkpoints of a run.

After a network failure, a job can be restarted while its earlier processes are still running. Each job writes its own
mark when it starts; a job that later finds a different mark stops writing.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from megatron_ipt.checkpointing.layout import checkpoints_folder
from megatron_ipt.corpus.manifest import write_atomically
from megatron_ipt.errors import UserError

_MARK_NAME = ".writer"


def mark_file(run: Path) -> Path:
    """Return the file that holds the mark of the job that has the lock on `run`."""
    return checkpoints_folder(run) / _MARK_NAME


class RunLock:
    """The lock of this job on a run; held by rank 0."""

    def __init__(self, run: Path) -> None:
        self._file = mark_file(run)
        self.mark = uuid.uuid4().hex
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._file, f"{self.mark}\n")

    def check(self) -> None:
        """Check that no other job has taken the lock.

        Raises:
            UserError: another job has been started on the same run since.
        """
        if self._file.read_text(encoding="utf-8").strip() != self.mark:
            raise UserError(
                "run", self._file.parent.parent, "another job has been started on it since", "run only one of the two"
            )
