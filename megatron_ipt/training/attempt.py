"""One attempt at a run: from a checkpoint, or from iteration 0, to the end of the run or to a rollback."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from megatron_ipt.checkpointing.callback_states import CallbackState
from megatron_ipt.training.callbacks import Callback
from megatron_ipt.training.state import TrainState


@dataclass(frozen=True)
class Attempt:
    """The starting point of an attempt, and the batches that it skips."""

    state: TrainState
    callback_states: Mapping[str, CallbackState]
    """The saved states of callbacks by name; empty at iteration 0."""
    skipped_batches: Collection[int] = ()
    """Batches that were anomalous in earlier attempts and are not trained on, by the iteration before them."""
    user_callbacks: Sequence[Callback] = ()
    is_local: bool = False
    """Whether the state comes from a local checkpoint, so that no shared one holds it yet."""
