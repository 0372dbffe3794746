"""Steps that must not reach the weights: a loss or a gradient that is not finite, or a loss far above its like."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel

from megatron_ipt.config.pretrain import FaultsConfig
from megatron_ipt.errors import UserError
from megatron_ipt.training.sample_losses import SampleLosses
from megatron_ipt.training.state import TrainState

_MOST_NAMED = 5


class RollBack(Exception):
    """The run has to go on from its newest checkpoint, and to pass over the batch of `iteration` this time."""

    def __init__(self, iteration: int) -> None:
        super().__init__(f"iteration {iteration}")
        self.iteration = iteration


class UnsoundStep(UserError):
    """The run must stop; raised on all ranks alike."""


class Inspection:
    """Looks at every step between the backward pass and the update; all ranks come to the same verdict."""

    def __init__(
        self,
        chunks: Sequence[DistributedDataParallel],
        losses: SampleLosses,
        policy: FaultsConfig,
        name_sample: Callable[[int], str],
        report: Callable[[str], None],
        earlier: int,
    ) -> None:
        """`name_sample` says which documents a sample was cut from; `earlier` anomalies were met before."""
        self._buffers = [buffer for chunk in chunks for buffer in (*chunk.buffers, *chunk.expert_parallel_buffers)]
        self._losses, self._policy, self._name_sample, self._report = losses, policy, name_sample, report
        self._met = earlier

    def admit(self, state: TrainState) -> bool:
        """Whether the step may update the weights; a collective call.

        Raises:
            UnsoundStep: the policy is to stop, or too many steps were not sound.
            RollBack: the policy is to go back to the newest checkpoint.
        """
        loss, is_finite = self._measure()
        cause, policy = self._find_cause(state, loss, is_finite)
        if cause is None:
            self._losses.pass_on()
            state.recent_losses = [*state.recent_losses, loss][-self._policy.loss_spike_window :]
            return True
        self._met += 1
        described = f"iteration {state.iteration + 1}: {cause}"
        named = self._name_samples(state.consumed_train_samples)
        self._losses.drop()
        if policy == "stop" or self._met > self._policy.max_anomalies:
            raise UnsoundStep(
                "training",
                described,
                named,
                "look at these documents, or lower the learning rate; skip and roll_back in the section faults go on "
                f"without the batch, up to {self._policy.max_anomalies} times",
            )
        self._report(f"{described}; {policy.replace('_', ' ')}; {named}")
        if policy == "roll_back":
            raise RollBack(state.iteration)
        return False

    def _measure(self) -> tuple[float, bool]:
        """Mean loss of the global batch, and whether every gradient is finite."""
        gradients = torch.stack([buffer.grad_data.sum(dtype=torch.float32) for buffer in self._buffers])
        is_bad = (~torch.isfinite(gradients).all()).double()
        totals = torch.cat([self._losses.totals(), is_bad[None]])
        dist.all_reduce(totals)
        loss_sum, tokens, bad = totals.tolist()
        return loss_sum / max(tokens, 1.0), bad == 0

    def _find_cause(self, state: TrainState, loss: float, is_finite: bool) -> tuple[str | None, str]:
        if not math.isfinite(loss):
            return f"the loss is {loss}", self._policy.on_nonfinite
        if not is_finite:
            return f"a gradient is not finite (loss {loss:.4f})", self._policy.on_nonfinite
        recent = state.recent_losses
        if self._policy.on_loss_spike != "ignore" and len(recent) == self._policy.loss_spike_window:
            mean, deviation = statistics.fmean(recent), statistics.pstdev(recent)
            if loss > mean + self._policy.loss_spike_sigmas * deviation:
                return f"the loss is {loss:.4f} after {mean:.4f} on average", self._policy.on_loss_spike
        return None, ""

    def _name_samples(self, consumed: int) -> str:
        """The samples whose own loss is not finite; where there are none, those of the highest loss."""
        losses = self._losses.of_samples(consumed)
        broken = [index for index, loss in losses.items() if not math.isfinite(loss)]
        chosen = broken or sorted(losses, key=lambda index: losses[index], reverse=True)
        named = [
            f"sample {index} (loss {losses[index]:.4f}, {self._name_sample(index)})" for index in chosen[:_MOST_NAMED]
        ]
        kind = f"{len(broken)} of {len(losses)} samples are broken" if broken else "highest losses of the batch"
        return f"{kind}: {'; '.join(named)}"
