"""The rank that keeps the others waiting.

Ranks wait for one another in every step, so that all take equally long. What differs is the time until a rank has its
own gradients and begins to wait for those of the others: there ranks that hold the same part of the model are compared.
Ranks of one copy of the model wait for one another before that too, so that a slow one shows in all of its copy.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from megatron_ipt.parallel.groups import Groups

_WORTH_TELLING = 1.2


class ComputeClock:
    """Times each step from its start to the point where its gradients meet those of other ranks."""

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._spans: list[tuple[Any, Any]] = []
        self._started: Any = None

    def start(self) -> None:
        """The step begins."""
        self._started = self._now()

    def stop(self) -> None:
        """The gradients of this rank are there, or on a GPU will be; nothing where no step was begun."""
        if self._started is not None:
            self._spans.append((self._started, self._now()))
            self._started = None

    def take_seconds(self) -> float:
        """The mean over the steps since the last call; 0 where there were none."""
        spans, self._spans = self._spans, []
        return statistics.fmean(map(self._length, spans)) if spans else 0.0

    def _now(self) -> Any:
        if not self._is_cuda:
            return time.monotonic()
        cuda: Any = torch.cuda  # torch does not say the types of its events
        event = cuda.Event(enable_timing=True)
        event.record()
        return event

    def _length(self, span: tuple[Any, Any]) -> float:
        started, stopped = span
        if not self._is_cuda:
            return float(stopped - started)
        stopped.synchronize()
        return float(started.elapsed_time(stopped) / 1e3)


class Stragglers:
    """Compares the clocks of all ranks; nothing is compared where no two ranks hold the same part of the model."""

    def __init__(self, clock: ComputeClock, groups: Groups, report: Callable[[str], None]) -> None:
        """`report` is told of a rank that takes much longer than the median of its like; a collective call."""
        self._clock, self._groups, self._report = clock, groups, report
        self._hosts = [""] * groups.world_size
        dist.all_gather_object(self._hosts, platform.node())

    def read(self) -> dict[str, float]:
        """The slowest rank since the last call, with its time over the median; a collective call."""
        groups = self._groups
        part = groups.pp_rank * groups.tp_size + groups.tp_rank
        reading = torch.tensor([part, self._clock.take_seconds()], dtype=torch.float64, device=groups.device)
        readings = [torch.empty_like(reading) for _ in range(groups.world_size)]
        dist.all_gather(readings, reading)
        parts, seconds = torch.stack(readings).T.tolist()
        if len(set(parts)) == len(parts) or not all(seconds):
            return {}
        rank, ratio = find_slowest(parts, seconds)
        if ratio > _WORTH_TELLING:
            self._report(
                f"rank {rank} on {self._hosts[rank]} keeps others waiting: it computes {ratio:.2f} times as long as "
                f"the median rank, {seconds[rank]:.3f} s a step"
            )
        return {"slowest_rank": rank, "slowest_rank_ratio": ratio}


def find_slowest(parts: Sequence[float], seconds: Sequence[float]) -> tuple[int, float]:
    """The rank that takes longest in comparison with those of the same part of the model, and how many times as long.

    `parts` and `seconds` are by rank. Of an even number the lower middle one counts as the median.
    """
    medians = {
        part: statistics.median_low([length for other, length in zip(parts, seconds, strict=True) if other == part])
        for part in set(parts)
    }
    ratios = [length / medians[part] for part, length in zip(parts, seconds, strict=True)]
    slowest = max(range(len(ratios)), key=ratios.__getitem__)
    return slowest, ratios[slowest]
