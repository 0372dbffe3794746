"""Detection of slow ranks.

Ranks wait for one another in every step, so the step time is equal on all of them. What differs is the time until a
rank has computed its own gradients and starts to wait for those of the others. This time is compared among ranks that
hold the same part of the model. Within a model replica, ranks wait for one another before that point as well, so a slow
rank slows down its whole replica.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from megatron_ipt.parallel.agreement import gather
from megatron_ipt.training.callbacks import Callback
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.recorder import Interval, Report
from megatron_ipt.training.state import TrainState

_COMPUTE_SECONDS = "compute_seconds"
_MIN_LOGGED_RATIO = 1.2


class ComputeClock:
    """Measures each step from its start until gradients are exchanged with other ranks."""

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._spans: list[tuple[Any, Any]] = []
        self._started: Any = None

    def start(self) -> None:
        """Start measuring a step."""
        self._started = self._now()

    def stop(self) -> None:
        """Stop when the gradients of this rank are computed (on a GPU: queued); does nothing if no step was started."""
        if self._started is not None:
            self._spans.append((self._started, self._now()))
            self._started = None

    def take_seconds(self) -> float:
        """Return the mean over the steps since the last call; 0 without steps."""
        spans, self._spans = self._spans, []
        return statistics.fmean(map(self._length, spans)) if spans else 0.0

    def _now(self) -> Any:
        if not self._is_cuda:
            return time.monotonic()
        cuda: Any = torch.cuda  # torch has no types for its events
        event = cuda.Event(enable_timing=True)
        event.record()
        return event

    def _length(self, span: tuple[Any, Any]) -> float:
        started, stopped = span
        if not self._is_cuda:
            return float(stopped - started)
        stopped.synchronize()
        return float(started.elapsed_time(stopped) / 1e3)


class Stragglers(Callback):
    """Reports the slowest rank, and logs it if it takes much longer than the median of its peers."""

    name = "stragglers"

    def __init__(self, context: RunContext, clock: ComputeClock) -> None:
        """Gather the part of the model and the host name of each rank; a collective call."""
        self._context, self._clock = context, clock
        groups = context.groups
        self._ranks = gather((groups.pp_rank * groups.tp_size + groups.tp_rank, platform.node()))

    def before_report(self, state: TrainState, interval: Interval) -> None:
        """Record the time until this rank has its own gradients."""
        self._context.record_metric(_COMPUTE_SECONDS, self._clock.take_seconds(), "max")

    def after_report(self, state: TrainState, report: Report) -> None:
        """Compare the ranks, if several hold the same part of the model and all have computed gradients."""
        parts, seconds = [part for part, _ in self._ranks], report.reduced[_COMPUTE_SECONDS].by_rank
        if len(set(parts)) == len(parts) or not all(seconds):
            return
        rank, ratio = find_slowest(parts, seconds)
        report.metrics.update({"slowest_rank": rank, "slowest_rank_ratio": ratio})
        if ratio > _MIN_LOGGED_RATIO:
            self._context.log(
                f"rank {rank} on {self._ranks[rank][1]} is slow: it computes {ratio:.2f} times as long as the median "
                f"rank, {seconds[rank]:.3f} s per step"
            )


def find_slowest(parts: Sequence[float], seconds: Sequence[float]) -> tuple[int, float]:
    """Find the slowest rank relative to the ranks with the same part of the model.

    `parts` and `seconds` are by rank. The median of an even number of ranks is the lower of the two middle values.

    Returns:
        The rank, and its time divided by the median of its peers.
    """
    medians = {
        part: statistics.median_low([length for other, length in zip(parts, seconds, strict=True) if other == part])
        for part in set(parts)
    }
    ratios = [length / medians[part] for part, length in zip(parts, seconds, strict=True)]
    slowest = max(range(len(ratios)), key=ratios.__getitem__)
    return slowest, ratios[slowest]
