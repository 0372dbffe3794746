"""The callback that saves local checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from megatron_ipt.checkpointing.callback_states import CallbackState
from megatron_ipt.checkpointing.contents import Contents
from megatron_ipt.checkpointing.local_store import LocalStore
from megatron_ipt.checkpointing.training_state import copy_training_state
from megatron_ipt.errors import UserError
from megatron_ipt.training.callbacks import Callback
from megatron_ipt.training.clock import LOCAL_CHECKPOINT
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.model_bundle import ModelBundle
from megatron_ipt.training.save_timer import SaveTimer
from megatron_ipt.training.state import TrainState

logger = logging.getLogger(__name__)

_FAILED = 2**17
_FAILED_BEFORE = _FAILED**2
"""Votes of a rank that could not write the newest checkpoint, or the one before it.

A rank that is still writing votes 1. Each vote exceeds the sum of all ranks' smaller ones; a double holds the total.
"""


class LocalCheckpoints(Callback):
    """Saves the state of each rank on its own node, every `local_interval` iterations without a shared checkpoint.

    A rank that cannot write logs a warning, and the run continues. This callback runs after `Checkpoints`, because it
    removes the local checkpoints at the end, when the final shared one is complete.
    """

    name = "local_checkpoints"

    def __init__(
        self,
        context: RunContext,
        bundle: ModelBundle,
        store: LocalStore,
        state_dicts: Callable[[], Mapping[str, CallbackState]],
    ) -> None:
        """`state_dicts` returns the states of all callbacks."""
        self._context, self._bundle, self._store, self._state_dicts = context, bundle, store, state_dicts
        self._rule = context.config.checkpoint
        self._is_saving = self._has_failed = self._has_warned = False
        self._started_iteration = self._iteration_before = 0
        self._has_failed_before = False
        self._timer = SaveTimer(context, LOCAL_CHECKPOINT)

    def vote(self) -> float:
        """Return the sum of the votes that apply: 1, `_FAILED`, `_FAILED_BEFORE`."""
        vote = _FAILED_BEFORE * self._has_failed_before
        if self._store.is_writing():  # asked first: a write may fail between the two questions
            return float(vote + 1)
        return float(vote + _FAILED * (self._has_failed or self._store.has_failed()))

    def between_steps(self, state: TrainState) -> None:
        """Report a checkpoint that this rank has written; start a save if one is due."""
        failed_before, votes = divmod(int(state.last_step.votes[self.name]), _FAILED_BEFORE)
        failed, writing = divmod(votes, _FAILED)
        if failed and not self._has_warned:
            self._has_warned = True
            self._context.log(f"warning: {failed} rank(s) could not write a local checkpoint, see their output")
        if not self._store.is_writing():
            self._finish(state)
        if not (failed or writing):
            self._store.confirm(self._started_iteration)
        elif not failed_before:  # each rank has waited for that write before it started this one
            self._store.confirm(self._iteration_before)
        self._begin_due(state)

    def _begin_due(self, state: TrainState) -> None:
        training, rule = self._context.config.training, self._rule
        assert rule.local_interval is not None
        is_shared = state.iteration % rule.save_interval == 0 or state.iteration == training.train_iters
        if state.iteration % rule.local_interval == 0 and not is_shared:
            self._save(state)
            if not rule.async_save:
                self._finish(state)

    def finish(self, state: TrainState) -> None:
        """Remove the local checkpoints: there is now a shared one of this iteration."""
        self._finish(state)
        self._store.clear()

    leave = finish

    def close(self) -> None:
        """Wait for a pending write, after an error too: the run may resume from it."""
        try:
            self._store.finish_save(self._started_iteration)
        except (OSError, UserError) as error:
            self._warn(error)

    def _save(self, state: TrainState) -> None:
        self._finish(state)
        self._iteration_before, self._has_failed_before = self._started_iteration, self._has_failed
        callback_states = self._state_dicts()
        self._context.metrics.sync()
        self._started_iteration = state.iteration
        self._timer.start(state.iteration)
        with self._context.clock.outside(LOCAL_CHECKPOINT):
            copied = copy_training_state(self._bundle.chunks, self._bundle.optimizer, self._context.groups)
            progress = Contents(state.iteration, state.consumed_train_samples, [], state.validation_loss)
            self._store.begin_save(progress, copied, callback_states)
        self._is_saving, self._has_failed, self._has_warned = True, False, False

    def _finish(self, state: TrainState) -> None:
        """Wait until this rank has written the checkpoint that was started, if any, and report it."""
        if not self._is_saving:
            return
        self._is_saving = False
        try:
            with self._context.clock.outside(LOCAL_CHECKPOINT, is_new=False):
                folder = self._store.finish_save(self._started_iteration)
        except OSError as error:
            self._has_failed = True
            self._warn(error)
            return
        assert folder is not None
        self._timer.report(state.iteration, folder)

    def _warn(self, error: Exception) -> None:
        """Log a warning on this rank."""
        logger.warning("the local checkpoint of iteration %d cannot be written: %s", self._started_iteration, error)
