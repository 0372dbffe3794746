"""Steps that must not reach the weights: a loss or a gradient that is not finite, or a loss far above recent ones."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection
from typing import Any

from megatron_ipt.errors import UserError
from megatron_ipt.training.callbacks import Callback, PendingUpdate
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.sample_losses import SampleLosses
from megatron_ipt.training.state import TrainState

_MAX_NAMED_SAMPLES = 5


class RollBack(Exception):
    """The run has to resume from its newest checkpoint, passing over the batch that follows `iteration`."""

    def __init__(self, iteration: int) -> None:
        super().__init__(f"iteration {iteration}")
        self.iteration = iteration


class UnsoundStep(UserError):
    """The run must stop; raised on all ranks alike."""


class Anomalies(Callback):
    """Applies the policies of the section `faults` to each step between the backward pass and the update.

    The count that `faults.max_anomalies` limits and the history of the loss are part of the checkpoint. Steps that a
    resumed run repeats are counted again by themselves; of a roll back only this process knows, so that its batches
    are added to the count of the checkpoint that it went back to.
    """

    name = "anomalies"

    def __init__(
        self,
        context: RunContext,
        losses: SampleLosses,
        name_sample: Callable[[int], str],
        passed_over: Collection[int],
    ) -> None:
        """`name_sample` says which documents a sample was cut from; `passed_over`: see `Attempt`."""
        self._policy, self._log = context.config.faults, context.log
        self._losses, self._name_sample, self._passed_over = losses, name_sample, passed_over
        self._count = 0
        self._recent_losses: list[float] = []

    def start(self, state: TrainState) -> None:
        """Add the batches that earlier attempts went back from and that are still ahead."""
        self._count += sum(iteration >= state.iteration for iteration in self._passed_over)

    def before_optimizer_step(self, state: TrainState, update: PendingUpdate) -> None:
        """Accept the update, or reject it as the policy says; a collective call only if it is an anomaly.

        Raises:
            UnsoundStep: the policy is to stop, or there were too many anomalies.
            RollBack: the policy is to go back to the newest checkpoint.
        """
        update.anomaly, policy = self._find_anomaly(update)
        if update.anomaly is None or policy == "ignore":
            if update.has_loss:
                self._recent_losses = [*self._recent_losses, update.loss][-self._policy.loss_spike_window :]
            return
        self._count += 1
        described = f"iteration {state.iteration + 1}: {update.anomaly}"
        named = self._name_samples(state.consumed_train_samples)
        if policy == "stop" or self._count > self._policy.max_anomalies:
            raise UnsoundStep(
                "training",
                described,
                named,
                "look at these documents, or lower the learning rate; with skip or roll_back in the section faults the "
                f"run continues without the batch, up to {self._policy.max_anomalies} times "
                f"(this is anomaly {self._count})",
            )
        self._log(f"{described}; {policy.replace('_', ' ')}; {named}")
        if policy == "roll_back":
            raise RollBack(state.iteration)
        update.reject()

    def state_dict(self) -> dict[str, Any]:
        """Number of anomalies so far, and the losses of the last steps, newest last."""
        return {"count": self._count, "recent_losses": self._recent_losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the count and the losses of the checkpoint."""
        self._count, self._recent_losses = state["count"], list(state["recent_losses"])

    def _find_anomaly(self, update: PendingUpdate) -> tuple[str | None, str]:
        """The anomaly, if any, and the policy for it."""
        loss = update.loss
        if not math.isfinite(loss):
            return f"the loss is {loss}", self._policy.on_nonfinite
        if not update.has_finite_gradients:
            return f"a gradient is not finite (loss {loss:.4f})", self._policy.on_nonfinite
        recent = self._recent_losses
        if update.has_loss and len(recent) == self._policy.loss_spike_window:
            mean, deviation = statistics.fmean(recent), statistics.pstdev(recent)
            if loss > mean + self._policy.loss_spike_sigmas * deviation:
                return f"the loss is {loss:.4f} after {mean:.4f} on average", self._policy.on_loss_spike
        return None, ""

    def _name_samples(self, consumed: int) -> str:
        """The samples whose own loss is not finite; without any, those with the highest loss."""
        losses = self._losses.of_samples(consumed)
        broken = [index for index, loss in losses.items() if not math.isfinite(loss)]
        chosen = broken or sorted(losses, key=lambda index: losses[index], reverse=True)
        named = [
            f"sample {index} (loss {losses[index]:.4f}, {self._name_sample(index)})"
            for index in chosen[:_MAX_NAMED_SAMPLES]
        ]
        kind = f"{len(broken)} of {len(losses)} samples are broken" if broken else "highest losses of the batch"
        return f"{kind}: {'; '.join(named)}"
