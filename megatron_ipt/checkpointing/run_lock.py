"""The run lock: one job at a time writes the checkpoints of a run.

After a network failure a job can be started again while its former processes are still running. The job that starts
last writes its own mark; a job that finds another mark writes nothing more.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from megatron_ipt.checkpointing.layout import checkpoints_folder
from megatron_ipt.corpus.manifest import write_atomically
from megatron_ipt.errors import UserError

_MARK_NAME = ".writer"


class RunLock:
    """The mark of this job on a run; taken by rank 0."""

    def __init__(self, run: Path) -> None:
        self._file = checkpoints_folder(run) / _MARK_NAME
        self.mark = uuid.uuid4().hex
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._file, f"{self.mark}\n")

    def check(self) -> None:
        """Check that no other job has taken the lock.

        Raises:
            UserError: another job was started on the same run since.
        """
        if self._file.read_text(encoding="utf-8").strip() != self.mark:
            raise UserError(
                "run", self._file.parent.parent, "another job was started on it since", "keep one of the two"
            )
