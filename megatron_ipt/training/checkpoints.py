"""The callback that saves checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from megatron_ipt.checkpointing.callback_states import CallbackState
from megatron_ipt.checkpointing.contents import Contents
from megatron_ipt.checkpointing.layout import RUN_CONFIG_NAME
from megatron_ipt.checkpointing.store import CheckpointStore
from megatron_ipt.checkpointing.training_state import prepare_training_state
from megatron_ipt.training.callbacks import Callback
from megatron_ipt.training.clock import CHECKPOINT
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.model_bundle import ModelBundle
from megatron_ipt.training.save_timer import SaveTimer
from megatron_ipt.training.state import TrainState


class Checkpoints(Callback):
    """Saves every `save_interval` iterations, at the end, and when the run stops early."""

    name = "checkpoints"

    def __init__(
        self,
        context: RunContext,
        bundle: ModelBundle,
        store: CheckpointStore,
        state_dicts: Callable[[], Mapping[str, CallbackState]],
        saved_iteration: int | None,
        before_save: Callable[[], None],
    ) -> None:
        """
        Args:
            context: the run.
            bundle: the model.
            store: the checkpoints of the run.
            state_dicts: returns the states of all callbacks.
            saved_iteration: the iteration at which the run starts; None if no checkpoint in `store` has it.
            before_save: called before each save.
        """
        self._context, self._bundle, self._store, self._state_dicts = context, bundle, store, state_dicts
        self._rule = context.config.checkpoint
        self._started_iteration, self._before_save = saved_iteration, before_save
        self._is_saving = False
        self._timer = SaveTimer(context, CHECKPOINT)

    def vote(self) -> float:
        """Return 1 while a process of this rank is writing a checkpoint, else 0."""
        return float(self._store.is_writing_here())

    def between_steps(self, state: TrainState) -> None:
        """Finalize a checkpoint that all ranks have written; start a save if one is due."""
        if not state.last_step.votes[self.name]:
            self._finish(state)
        if state.iteration % self._rule.save_interval == 0:
            self._save(state)
            if not self._rule.async_save:
                self._finish(state)

    def finish(self, state: TrainState) -> None:
        """Save the final weights unless they are already saved, and wait until the checkpoint is complete."""
        if self._started_iteration != state.iteration:
            self._save(state)
        self._finish(state)

    leave = finish

    def _save(self, state: TrainState) -> None:
        self._finish(state)
        self._before_save()
        callback_states = self._state_dicts()
        self._context.metrics.sync()
        self._started_iteration = state.iteration
        self._timer.start(state.iteration)
        with self._context.clock.outside(CHECKPOINT):
            self._store.begin_save(
                Contents(state.iteration, state.consumed_train_samples, [], state.validation_loss),
                self._context.run / RUN_CONFIG_NAME,
                lambda folder: prepare_training_state(
                    folder, self._bundle.chunks, self._bundle.optimizer, self._context.groups
                ),
                callback_states,
            )
        self._is_saving = True

    def _finish(self, state: TrainState) -> None:
        """Wait until the checkpoint that was started, if any, has been written, and finalize it."""
        if not self._is_saving:
            return
        with self._context.clock.outside(CHECKPOINT, is_new=False):
            folder = self._store.finish_save()
        assert folder is not None
        self._is_saving = False
        self._timer.report(state.iteration, folder)
