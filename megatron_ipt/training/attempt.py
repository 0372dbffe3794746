"""One attempt at a run: from a checkpoint, or from iteration 0, to its end or to a roll back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from megatron_ipt.checkpointing.callback_states import CallbackState
from megatron_ipt.training.callbacks import Callback
from megatron_ipt.training.state import TrainState


@dataclass(frozen=True)
class Attempt:
    """Where an attempt starts, and what differs in it."""

    state: TrainState
    callback_states: Mapping[str, CallbackState]
    """Saved states of callbacks, by name; empty at iteration 0."""
    passed_over: Collection[int] = ()
    """Batches that are read but not trained on, by the iteration before them: anomalies of earlier attempts."""
    user_callbacks: Sequence[Callback] = ()
