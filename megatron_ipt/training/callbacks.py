"""The seams of the training loop: what can watch and steer a run, and when it is called."""

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
    """The gradients of a global batch before the optimizer step; equal on all ranks."""

    loss: float
    """Mean over the tokens of the global batch, in nats; 0 if none of them bears loss."""
    has_finite_gradients: bool
    has_loss: bool = True
    """Whether any token of the global batch bears loss."""
    is_rejected: bool = False
    anomaly: str | None = None
    """The anomaly of the loss or the gradients, whatever the run then does about it; None if there is none."""

    def reject(self) -> None:
        """Leave the weights as they are and count the step as skipped; all ranks must do so alike."""
        self.is_rejected = True


class Callback:
    """Base class of what watches or steers a run.

    Every rank calls every hook of every callback in the order of the list, so a hook may contain collective calls.
    The order of the hooks in a run:

    1. `setup`, then `load_state_dict` when resuming, then `start`
    2. in each step `vote`, `before_optimizer_step`, `after_step`; at a log interval `before_report` and
       `after_report`; last `between_steps`
    3. `finish` at the end, or `leave` when the run stops early and will be resumed
    4. `close`, after an error too

    After a roll back the same object starts again from 1.
    """

    @property
    def name(self) -> str:
        """The key of the saved state and of the vote, unique within a run; by default the name of the class."""
        return type(self).__name__

    def setup(self, context: RunContext, bundle: ModelBundle) -> None:
        """Keep what the callback needs of the run (configuration, process groups, log, metrics) and of its model."""

    def start(self, state: TrainState) -> None:
        """Called once before the first step."""

    def vote(self) -> float:
        """A number of this rank that joins the reduction of every step, at no collective call of its own.

        From `after_step` on, `state.last_step.votes[name]` is its sum over all ranks.
        """
        return 0.0

    def before_optimizer_step(self, state: TrainState, update: PendingUpdate) -> None:
        """Called when the gradients are complete and reduced; `state` counts the steps before this one.

        May change gradients in place, or reject the update. Not called for a batch that is passed over.
        """

    def after_step(self, state: TrainState) -> None:
        """Called after each step, which `state` already counts."""

    def before_report(self, state: TrainState, interval: Interval) -> None:
        """Record what is measured once per log interval; the reduction over all ranks follows."""

    def after_report(self, state: TrainState, report: Report) -> None:
        """Called after the reduction; what is added to `report.metrics` appears in metrics.jsonl and the trackers."""

    def between_steps(self, state: TrainState) -> None:
        """Called last in each step: the run is validated and saved here."""

    def finish(self, state: TrainState) -> None:
        """Called once after the last step."""

    def leave(self, state: TrainState) -> None:
        """Called once instead of `finish` when the run stops early and will be resumed."""

    def close(self) -> None:
        """Release resources, whatever ended the run."""

    def state_dict(self) -> CallbackState:
        """What the callback needs to resume, as JSON values and tensors; of what ranks return, rank 0's is saved."""
        return {}

    def load_state_dict(self, state: CallbackState) -> None:
        """Restore what `state_dict` returned on rank 0; called on every rank."""


def check_names(callbacks: Sequence[Callback]) -> None:
    """Check that names are unique.

    Raises:
        UserError: two callbacks have the same name.
    """
    names = [callback.name for callback in callbacks]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise UserError("callbacks", sorted(repeated)[0], "two callbacks have this name", "override `name` in one")


def state_dicts(callbacks: Sequence[Callback]) -> dict[str, CallbackState]:
    """The states of all callbacks that have one, by name; a collective call."""
    states = {callback.name: callback.state_dict() for callback in callbacks}
    return {name: state for name, state in states.items() if state}


def load_state_dicts(
    callbacks: Sequence[Callback], states: Mapping[str, CallbackState], log: Callable[[str], None]
) -> None:
    """Hand each callback its state; `log` names states that no callback takes."""
    for callback in callbacks:
        if callback.name in states:
            callback.load_state_dict(states[callback.name])
    for name in sorted(states.keys() - {callback.name for callback in callbacks}):
        log(f"the checkpoint has a state of callback {name}, which this run does not have: ignored")
