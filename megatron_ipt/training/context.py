"""What all parts of a run share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.corpus.manifest import Stage
from megatron_ipt.observability.metrics import Metrics, NullMetrics
from megatron_ipt.parallel.groups import Groups
from megatron_ipt.training.clock import RunClock
from megatron_ipt.training.recorder import MetricRecorder, Reduction
from megatron_ipt.training.signals import StopSignals


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """A run as its parts and callbacks see it."""

    config: PretrainConfig
    stage: Stage
    """The run folder with its manifest."""
    groups: Groups
    log: Callable[[str], None]
    """Prints a line on rank 0, nothing elsewhere."""
    recorder: MetricRecorder
    metrics: Metrics = field(default_factory=NullMetrics)
    """metrics.jsonl and the trackers on rank 0, a null object elsewhere."""
    stop_signals: StopSignals = field(default_factory=StopSignals)
    clock: RunClock = field(default_factory=RunClock)

    @property
    def run(self) -> Path:
        """The folder of the run."""
        return Path(self.config.run)

    def record_metric(self, name: str, value: float | torch.Tensor | None, reduce: Reduction = "mean") -> None:
        """Record a value for the next report, where it is reduced over all steps of the interval and all ranks.

        Args:
            name: key in metrics.jsonl and the trackers. All ranks record the same names in the same order.
            value: a number or a tensor of one element, which is not read before the report; None on a rank that has
                no value to contribute.
            reduce: `mean`, `sum`, `max` or `min`, over steps and ranks alike.
        """
        self.recorder.record(name, value, reduce)
