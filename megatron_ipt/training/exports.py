"""Export of checkpoints to Hugging Face folders while training continues."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from megatron_ipt.attempts import FOLDER_VARIABLE
from megatron_ipt.checkpointing.layout import iteration_folder, saved_iterations
from megatron_ipt.corpus.manifest import read_manifest
from megatron_ipt.stages import COMMAND_LINE
from megatron_ipt.training.callbacks import Callback
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.state import TrainState

EXPORTS_NAME = "hf"
_MESSAGE_CHARACTERS = 2000
_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", FOLDER_VARIABLE)


@dataclass(frozen=True)
class _Export:
    checkpoint: Path
    process: subprocess.Popen[bytes]
    errors: Path
    """The file with the standard error of the process."""


class Exports(Callback):
    """Converts the checkpoints that `keep_every` keeps, and the last one, to RUN/hf/iter_*, one at a time.

    A separate process converts them on the CPU of rank 0's node. A failure is logged and does not stop the run; a
    restarted run exports what is missing. This callback comes after the watchdog because the end of a run waits for the
    exports, which must not count as a hang.
    """

    name = "exports"

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._is_active = context.config.checkpoint.export_hf and context.groups.rank == 0
        self._running: _Export | None = None
        self._tried = set[Path]()
        self._has_ended = False

    def between_steps(self, state: TrainState) -> None:
        """Report an export that has ended, and start the next one."""
        if not self._is_active:
            return
        if self._running is not None and self._running.process.poll() is not None:
            self._wait()
        if self._running is None:
            self._start_next()

    def finish(self, state: TrainState) -> None:
        """Have `close` export what is still missing."""
        self._has_ended = True

    def close(self) -> None:
        """Wait for all exports if the run has finished; otherwise terminate the current one."""
        if not self._is_active:
            return
        if not self._has_ended and self._running is not None:
            self._running.process.terminate()
            self._running.process.wait()
            return
        self._wait()
        while self._has_ended and self._start_next():
            self._wait()

    def _start_next(self) -> bool:
        """Start the oldest missing export, and return whether there was one."""
        waiting = [checkpoint for checkpoint in self._kept() if not self._is_done(checkpoint)]
        if not waiting:
            return False
        self._tried.add(waiting[0])
        settings = ["direction=mcore-to-hf", f"input={waiting[0]}", f"output={self._output(waiting[0])}"]
        errors = self._output(waiting[0]).with_suffix(".log")
        errors.parent.mkdir(exist_ok=True)
        with errors.open("wb") as handle:
            process = subprocess.Popen(
                [*COMMAND_LINE, "convert", *settings, "parity_check=false"],
                stdout=subprocess.DEVNULL,
                stderr=handle,
                env=_environment(),
            )
        self._running = _Export(waiting[0], process, errors)
        return True

    def _wait(self) -> None:
        """Wait for the current export, if any, and report it."""
        if self._running is None:
            return
        export, self._running = self._running, None
        if code := export.process.wait():
            message = export.errors.read_text(encoding="utf-8", errors="replace").strip()[-_MESSAGE_CHARACTERS:]
            self._context.log(f"warning: {export.checkpoint} could not be exported (exit code {code}): {message}")
            return
        export.errors.unlink()
        self._context.log(f"exported {export.checkpoint.name} to {self._output(export.checkpoint)}")

    def _kept(self) -> list[Path]:
        """Return the checkpoints to export, oldest first."""
        every, last = self._context.config.checkpoint.keep_every, self._context.config.training.train_iters
        iterations = sorted(saved_iterations(self._context.run))
        kept = [
            iteration for iteration in iterations if iteration == last or (every is not None and iteration % every == 0)
        ]
        return [iteration_folder(self._context.run, iteration) for iteration in kept]

    def _is_done(self, checkpoint: Path) -> bool:
        manifest = read_manifest(self._output(checkpoint))
        return checkpoint in self._tried or (manifest is not None and manifest.status == "complete")

    def _output(self, checkpoint: Path) -> Path:
        return self._context.run / EXPORTS_NAME / checkpoint.name


def _environment() -> dict[str, str]:
    """Return the environment of this process without the variables of a rank, and without GPUs."""
    kept = {name: value for name, value in os.environ.items() if name not in _RANK_VARIABLES}
    return {**kept, "CUDA_VISIBLE_DEVICES": ""}
