"""Metrics recorded during a log interval, and their reduction over all ranks in one collective call."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist

from megatron_ipt.errors import UserError
from megatron_ipt.parallel.groups import Groups

Reduction = Literal["mean", "sum", "max", "min"]
_PADDING = 64
"""Gathered tensors are padded to a multiple of this: ranks whose metrics differ then usually have tensors of equal
length, and the checksum reveals the difference, where a gather of unequal lengths would hang."""


@dataclass(frozen=True)
class Interval:
    """The steps since the last report."""

    iterations: int
    samples: int
    seconds: float
    """Wall time until the device had finished these steps, without validation and saving."""


@dataclass(frozen=True)
class Reduced:
    """A metric reduced over an interval and all ranks."""

    reduction: Reduction
    total: float
    """The sum, maximum or minimum of the values."""
    weight: float
    """The number of values, or for a weighted mean the sum of the weights; 0 without values."""
    by_rank: tuple[float, ...] = ()
    """`total` of each rank, without values from before a resume."""

    @property
    def value(self) -> float:
        """The value of the metric; NaN without values."""
        if not self.weight:
            return float("nan")
        return self.total / self.weight if self.reduction == "mean" else self.total


@dataclass(frozen=True)
class Report:
    """The metrics of an interval; `metrics` are those that appear in metrics.jsonl."""

    interval: Interval
    reduced: Mapping[str, Reduced]
    metrics: dict[str, Any]


class MetricRecorder:
    """Accumulates metrics on this rank; `reduce` and `state` are collective calls."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._entries: dict[str, tuple[Reduction, torch.Tensor]] = {}
        self._carried: dict[str, Reduced] = {}

    def record(self, name: str, value: float | torch.Tensor | None, reduction: Reduction) -> None:
        """Add a value; None adds only the name, so that all ranks record the same names."""
        if value is None:
            self.add(name, 0.0, 0.0, reduction)
        else:
            self.add(name, value, 1.0, reduction)

    def add(
        self, name: str, total: float | torch.Tensor, weight: float | torch.Tensor, reduction: Reduction = "mean"
    ) -> None:
        """Add values that are already combined, without synchronizing with the device.

        Args:
            name: the name of the metric.
            total: the sum of the values, or their maximum or minimum; a number or a tensor of one element.
            weight: the number of values, or for a weighted mean the sum of their weights; 0 for no value.
            reduction: how values are combined over steps and ranks.

        Raises:
            UserError: `name` was recorded with another reduction.
        """
        entry = torch.stack([self._number(total), self._number(weight)])
        if name in self._entries:
            known, before = self._entries[name]
            if known != reduction:
                reason = f"it is recorded with reduce={known} and with reduce={reduction}"
                raise UserError("record_metric", name, reason, "use one of them")
            entry = _combine(reduction, before, entry)
        self._entries[name] = (reduction, entry)

    def reduce(self) -> dict[str, Reduced]:
        """Reduce everything recorded since the last call over all ranks.

        Raises:
            UserError: ranks recorded different metrics.
        """
        reduced = self._gather()
        self._entries, self._carried = {}, {}
        return reduced

    def state(self) -> dict[str, list[Any]]:
        """Return the values recorded since the last `reduce`, over all ranks, as JSON values for `carry`."""
        return {name: [metric.reduction, metric.total, metric.weight] for name, metric in self._gather().items()}

    def carry(self, state: Mapping[str, list[Any]]) -> None:
        """Include values that `state` returned before the run was stopped in the next `reduce`."""
        self._carried = {name: Reduced(*values) for name, values in state.items()}

    def _gather(self) -> dict[str, Reduced]:
        mine = self._packed()
        by_rank = [torch.empty_like(mine) for _ in range(self._groups.world_size)]
        dist.all_gather(by_rank, mine)
        gathered = torch.stack(by_rank).cpu()  # (ranks, numbers)
        if bool((gathered[:, :2] != gathered[0, :2]).any()):
            raise UserError(
                "record_metric",
                ", ".join(self._entries),
                "other ranks recorded different metrics in this interval",
                "record the same names in the same order on all ranks, with None on a rank without a value",
            )
        count = len(self._entries)
        entries = gathered[:, 2 : 2 + 2 * count].reshape(len(gathered), count, 2)
        reduced = {
            name: _reduce(reduction, entries[:, number])
            for number, (name, (reduction, _)) in enumerate(self._entries.items())
        }
        carried = {name: _add_carried(metric, reduced.get(name)) for name, metric in self._carried.items()}
        return {**reduced, **carried}

    def _packed(self) -> torch.Tensor:
        """Return the number and a checksum of the metrics, then a total and a weight for each; float64, padded."""
        names = "\n".join(f"{name} {reduction}" for name, (reduction, _) in self._entries.items())
        numbers = [self._number(len(self._entries)), self._number(zlib.crc32(names.encode()))]
        packed = torch.cat([torch.stack(numbers), *(entry for _, entry in self._entries.values())])
        return torch.nn.functional.pad(packed, (0, -len(packed) % _PADDING))

    def _number(self, value: float | torch.Tensor) -> torch.Tensor:
        if isinstance(value, torch.Tensor):
            return value.detach().reshape(()).to(self._groups.device, torch.float64, non_blocking=True)
        # filled on the device: a copy from the host would wait for all work queued there
        return torch.full((), value, dtype=torch.float64, device=self._groups.device)


def _combine(reduction: Reduction, before: torch.Tensor, entry: torch.Tensor) -> torch.Tensor:
    """Combine two entries of total and weight; the total of an entry with weight 0 is ignored."""
    if reduction in ("mean", "sum"):
        return before + entry
    pick = torch.maximum if reduction == "max" else torch.minimum
    total = torch.where(entry[1] == 0, before[0], torch.where(before[1] == 0, entry[0], pick(before[0], entry[0])))
    return torch.stack([total, before[1] + entry[1]])


def _reduce(reduction: Reduction, entries: torch.Tensor) -> Reduced:
    """Reduce `entries`, (ranks, 2), in the order of the ranks, so that the result is deterministic."""
    result = entries[0]
    for entry in entries[1:]:
        result = _combine(reduction, result, entry)
    total, weight = result.tolist()
    return Reduced(reduction, total, weight, tuple(entries[:, 0].tolist()))


def _add_carried(carried: Reduced, now: Reduced | None) -> Reduced:
    if now is None:
        return carried
    pair = (torch.tensor([metric.total, metric.weight], dtype=torch.float64) for metric in (now, carried))
    total, weight = _combine(now.reduction, *pair).tolist()
    return Reduced(now.reduction, total, weight, now.by_rank)
