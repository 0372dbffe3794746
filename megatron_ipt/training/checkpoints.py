"""Saving while training."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from megatron_ipt.checkpointing.contents import Contents
from megatron_ipt.checkpointing.store import CheckpointStore
from megatron_ipt.observability.metrics import MetricsLog
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
        before_save: Callable[[TrainState], None],
        metrics: MetricsLog | None,
        report: Callable[[str], None],
    ) -> None:
        """`before_save` is called before each save, on all ranks."""
        self._store, self._write, self._run_config = store, write, run_config
        self._interval, self._saved_iteration, self._report = save_interval, saved_iteration, report
        self._before_save, self._metrics = before_save, metrics

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
        self._before_save(state)
        started_seconds = time.monotonic()
        unsealed = Contents(
            state.iteration, state.consumed_train_samples, [], state.validation_loss, state.recent_losses
        )
        folder = self._store.save(unsealed, self._run_config, self._write)
        self._saved_iteration = state.iteration
        seconds = time.monotonic() - started_seconds
        if self._metrics is not None:
            self._metrics.log(state.iteration, {"checkpoint_seconds": seconds})
        self._report(f"saved {folder} in {seconds:.1f} s")
