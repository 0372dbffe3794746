"""Detection of steps that must not update the weights: a non-finite loss or gradient, or a loss spike."""

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
    """Raised to resume the run from its newest checkpoint and skip the batch that follows `iteration`."""

    def __init__(self, iteration: int) -> None:
        super().__init__(f"iteration {iteration}")
        self.iteration = iteration


class AnomalousStep(UserError):
    """An anomaly that stops the run; raised on all ranks."""


class Anomalies(Callback):
    """Applies the policies of the section `faults` to each step between the backward pass and the update.

    The number of anomalies, which `faults.max_anomalies` limits, and the recent losses are saved in checkpoints. A
    resumed run repeats the steps after its checkpoint, and counts their anomalies again. Rollbacks are not saved: only
    this process knows them, and adds them to the count in the checkpoint that it rolled back to.
    """

    name = "anomalies"

    def __init__(
        self,
        context: RunContext,
        losses: SampleLosses,
        describe_sample: Callable[[int], str],
        skipped_batches: Collection[int],
    ) -> None:
        """
        Args:
            context: the run.
            losses: the losses of the samples of the current step.
            describe_sample: returns a description of the documents that a sample consists of.
            skipped_batches: see `Attempt`.
        """
        self._policy, self._log = context.config.faults, context.log
        self._losses, self._describe_sample, self._skipped_batches = losses, describe_sample, skipped_batches
        self._count = 0
        self._recent_losses: list[float] = []

    def start(self, state: TrainState) -> None:
        """Add the anomalies after this checkpoint from which earlier attempts rolled back."""
        self._count += sum(iteration >= state.iteration for iteration in self._skipped_batches)

    def before_optimizer_step(self, state: TrainState, update: PendingUpdate) -> None:
        """Apply the policy to the update; a collective call if it is anomalous.

        Raises:
            AnomalousStep: the policy is to stop, or there were too many anomalies.
            RollBack: the policy is to go back to the newest checkpoint.
        """
        update.anomaly, policy = self._find_anomaly(update)
        if update.anomaly is None or policy == "ignore":
            if update.has_loss:
                self._recent_losses = [*self._recent_losses, update.loss][-self._policy.loss_spike_window :]
            return
        self._count += 1
        described = f"iteration {state.iteration + 1}: {update.anomaly}"
        named = self._describe_samples(state.consumed_train_samples)
        if policy == "stop" or self._count > self._policy.max_anomalies:
            raise AnomalousStep(
                "training",
                described,
                named,
                "inspect these documents, or lower the learning rate; with skip or roll_back in the section faults, "
                f"the run continues without the batch, up to {self._policy.max_anomalies} times "
                f"(this is anomaly {self._count})",
            )
        self._log(f"{described}; {policy.replace('_', ' ')}; {named}")
        if policy == "roll_back":
            raise RollBack(state.iteration)
        update.reject()

    def state_dict(self) -> dict[str, Any]:
        """Return the number of anomalies so far, and the losses of recent steps, newest last."""
        return {"count": self._count, "recent_losses": self._recent_losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the count and the losses."""
        self._count, self._recent_losses = state["count"], list(state["recent_losses"])

    def _find_anomaly(self, update: PendingUpdate) -> tuple[str | None, str]:
        """Return a description of the anomaly, if any, and the policy for it."""
        loss = update.loss
        if not math.isfinite(loss):
            return f"the loss is {loss}", self._policy.on_nonfinite
        if not update.has_finite_gradients:
            return f"a gradient is not finite (loss {loss:.4f})", self._policy.on_nonfinite
        recent = self._recent_losses
        if update.has_loss and len(recent) == self._policy.loss_spike_window:
            mean, deviation = statistics.fmean(recent), statistics.pstdev(recent)
            if loss > mean + self._policy.loss_spike_sigmas * deviation:
                return f"the loss is {loss:.4f}, recently {mean:.4f} on average", self._policy.on_loss_spike
        return None, ""

    def _describe_samples(self, consumed: int) -> str:
        """Describe the samples with a non-finite loss; if there are none, those with the highest loss."""
        losses = self._losses.of_samples(consumed)
        broken = [index for index, loss in losses.items() if not math.isfinite(loss)]
        chosen = broken or sorted(losses, key=lambda index: losses[index], reverse=True)
        named = [
            f"sample {index} (loss {losses[index]:.4f}, {self._describe_sample(index)})"
            for index in chosen[:_MAX_NAMED_SAMPLES]
        ]
        kind = (
            f"{len(broken)} of {len(losses)} samples have a non-finite loss"
            if broken
            else "highest losses of the batch"
        )
        return f"{kind}: {'; '.join(named)}"
