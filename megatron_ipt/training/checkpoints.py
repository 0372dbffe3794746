"""Saving while training."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from megatron_ipt.checkpointing.store import CheckpointStore
from megatron_ipt.training.state import TrainState
from megatron_ipt.training.trainer import Callback


class Checkpoints(Callback):
    """Saves every `save_interval` iterations, at the end, and before the run has to leave."""

    def __init__(
        self,
        store: CheckpointStore,
        write: Callable[[Path], None],
        run_config: Path,
        *,
        save_interval: int,
        saved_iteration: int,
        report: Callable[[str], None],
    ) -> None:
        self._store, self._write, self._run_config = store, write, run_config
        self._interval, self._saved_iteration, self._report = save_interval, saved_iteration, report

    def after_step(self, state: TrainState) -> None:
        """Save when it is time."""
        if state.iteration % self._interval == 0:
            self._save(state)

    def finish(self, state: TrainState) -> None:
        """Save the final weights, unless that has just been done."""
        if self._saved_iteration != state.iteration:
            self._save(state)

    leave = finish

    def _save(self, state: TrainState) -> None:
        started_seconds = time.monotonic()
        folder = self._store.save(state.iteration, state.consumed_train_samples, self._run_config, self._write)
        self._saved_iteration = state.iteration
        self._report(f"saved {folder} in {time.monotonic() - started_seconds:.1f} s")
