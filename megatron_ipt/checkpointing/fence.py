"""One process at a time writes the checkpoints of a run.

After a lost network a job can be started again while its former self lives on. Whoever starts last puts its own mark
on the run; whoever finds another's mark there writes nothing more.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from megatron_ipt.checkpointing.layout import checkpoints_folder
from megatron_ipt.corpus.manifest import write_atomically
from megatron_ipt.errors import UserError

_MARK_NAME = ".writer"


class Fence:
    """The mark of this process on a run."""

    def __init__(self, run: Path) -> None:
        self._file = checkpoints_folder(run) / _MARK_NAME
        self.mark = uuid.uuid4().hex
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._file, f"{self.mark}\n")

    def check(self) -> None:
        """See that the run is still this process's.

        Raises:
            UserError: another one was started on the same run since.
        """
        if self._file.read_text(encoding="utf-8").strip() != self.mark:
            raise UserError(
                "run", self._file.parent.parent, "another job was started on it since", "let one of the two go on"
            )
