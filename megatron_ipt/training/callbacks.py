"""The callback interface of the training loop: hooks, their order, and what they may change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from megatron_ipt.errors import UserError

if TYPE_CHECKING:  # the modules below import this one
    from megatron_ipt.checkpointing.callback_states import CallbackState
    from megatron_ipt.training.context import RunContext
    from megatron_ipt.training.model_bundle import ModelBundle
    from megatron_ipt.training.recorder import Interval, Report
    from megatron_ipt.training.state import TrainState


@dataclass
class PendingUpdate:
    """The loss and gradients of a global batch before the optimizer step; equal on all ranks."""

    loss: float
    """Mean over the unmasked tokens of the global batch, in nats; 0 if all are masked."""
    has_finite_gradients: bool
    has_loss: bool = True
    """Whether any token of the global batch is unmasked."""
    is_rejected: bool = False
    anomaly: str | None = None
    """A description of the anomaly, whatever the policy for it; None if there is none."""

    def reject(self) -> None:
        """Skip the update of the weights and count the step as skipped; must be called on all ranks."""
        self.is_rejected = True


class Callback:
    """Base class of callbacks.

    Every rank calls every hook of every callback in the order of the list, so a hook may contain collective calls.
    The order of the hooks in a run:

    1. `setup`, then `load_state_dict` when resuming, then `start`
    2. in each step `vote`, `before_optimizer_step`, `after_step`; at a log interval `before_report` and
       `after_report`; last `between_steps`
    3. `finish` at the end, or `leave` when the run stops early and will be resumed
    4. `close`, after an error too

    After a rollback, the same object starts again from 1.
    """

    @property
    def name(self) -> str:
        """The key of the saved state and of the vote, unique within a run; defaults to the class name."""
        return type(self).__name__

    def setup(self, context: RunContext, bundle: ModelBundle) -> None:
        """Called first; `context` holds the configuration, process groups, log and metrics, `bundle` the model."""

    def start(self, state: TrainState) -> None:
        """Called once before the first step."""

    def vote(self) -> float:
        """Return a number that is summed over all ranks in each step, without an additional collective call.

        From `after_step` on, the sum is `state.last_step.votes[name]`.
        """
        return 0.0

    def before_optimizer_step(self, state: TrainState, update: PendingUpdate) -> None:
        """Called after the gradients have been reduced; `state` does not count this step yet.

        It may change gradients in place, or reject the update. Not called for the batches that an attempt skips.
        """

    def after_step(self, state: TrainState) -> None:
        """Called after each step; `state` includes the step."""

    def before_report(self, state: TrainState, interval: Interval) -> None:
        """Called once per log interval to record metrics, before they are reduced over all ranks."""

    def after_report(self, state: TrainState, report: Report) -> None:
        """Called after the reduction; entries added to `report.metrics` appear in metrics.jsonl and the trackers."""

    def between_steps(self, state: TrainState) -> None:
        """Called last in each step; the built-in callbacks validate and save here."""

    def finish(self, state: TrainState) -> None:
        """Called once after the last step."""

    def leave(self, state: TrainState) -> None:
        """Called once instead of `finish` when the run stops early and will be resumed."""

    def close(self) -> None:
        """Release resources; called after errors too."""

    def state_dict(self) -> CallbackState:
        """Return the state to save, as JSON values and tensors; called on every rank, and rank 0's is saved."""
        return {}

    def load_state_dict(self, state: CallbackState) -> None:
        """Restore the state that rank 0 saved; called on every rank."""


def check_names(callbacks: Sequence[Callback]) -> None:
    """Check that names are unique.

    Raises:
        UserError: two callbacks have the same name.
    """
    names = [callback.name for callback in callbacks]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise UserError(
            "callbacks", sorted(repeated)[0], "two callbacks have this name", "override `name` in one of them"
        )


def state_dicts(callbacks: Sequence[Callback]) -> dict[str, CallbackState]:
    """Return the states of all callbacks that have one, by name; a collective call."""
    states = {callback.name: callback.state_dict() for callback in callbacks}
    return {name: state for name, state in states.items() if state}


def load_state_dicts(
    callbacks: Sequence[Callback], states: Mapping[str, CallbackState], log: Callable[[str], None]
) -> None:
    """Restore the state of each callback; states without a callback are logged and ignored."""
    for callback in callbacks:
        if callback.name in states:
            callback.load_state_dict(states[callback.name])
    for name in sorted(states.keys() - {callback.name for callback in callbacks}):
        log(f"the checkpoint has a state of callback {name}, which this run does not have: ignored")
