"""Saving while training."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest

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
        write: Callable[[Path], AsyncRequest],
        run_config: Path,
        *,
        save_interval: int,
        in_background: bool,
        saved_iteration: int,
        before_save: Callable[[TrainState], None],
        metrics: MetricsLog | None,
        report: Callable[[str], None],
    ) -> None:
        """`before_save` is called before each save, on all ranks."""
        self._store, self._write, self._run_config = store, write, run_config
        self._interval, self._begun_iteration, self._report = save_interval, saved_iteration, report
        self._in_background, self._before_save, self._metrics = in_background, before_save, metrics
        self._begun_seconds = self._held_seconds = 0.0

    def after_step(self, state: TrainState) -> None:
        """Save when it is time; see whether what was begun has been written."""
        self._finish(state, blocking=False)
        if state.iteration % self._interval == 0:
            self._save(state)
            self._finish(state, blocking=not self._in_background)

    def finish(self, state: TrainState) -> None:
        """Save the final weights, unless that has just been done, and wait for them."""
        if self._begun_iteration != state.iteration:
            self._save(state)
        self._finish(state, blocking=True)

    leave = finish

    def _save(self, state: TrainState) -> None:
        self._finish(state, blocking=True)
        self._before_save(state)
        self._begun_iteration, self._begun_seconds = state.iteration, time.monotonic()
        unsealed = Contents(
            state.iteration, state.consumed_train_samples, [], state.validation_loss, state.recent_losses
        )
        self._store.begin_save(unsealed, self._run_config, self._write)
        self._held_seconds = time.monotonic() - self._begun_seconds

    def _finish(self, state: TrainState, *, blocking: bool) -> None:
        started_seconds = time.monotonic()
        folder = self._store.finish_save(blocking=blocking)
        self._held_seconds += time.monotonic() - started_seconds
        if folder is None:
            return
        seconds = time.monotonic() - self._begun_seconds
        if self._metrics is not None:
            figures = {"checkpoint_seconds": seconds, "checkpoint_held_seconds": self._held_seconds}
            self._metrics.log(state.iteration, {"checkpoint_iteration": self._begun_iteration, **figures})
        self._report(f"saved {folder} in {seconds:.1f} s, for {self._held_seconds:.1f} s of which training stood still")
