"""The context of a run, shared by all its parts."""

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
    """The configuration, process groups, log and metrics of a run, for its parts and callbacks."""

    config: PretrainConfig
    stage: Stage
    """The run folder with its manifest."""
    groups: Groups
    log: Callable[[str], None]
    """Logs a line on rank 0; does nothing on other ranks."""
    recorder: MetricRecorder
    metrics: Metrics = field(default_factory=NullMetrics)
    """metrics.jsonl and the trackers on rank 0; a null object on other ranks."""
    stop_signals: StopSignals = field(default_factory=StopSignals)
    clock: RunClock = field(default_factory=RunClock)

    @property
    def run(self) -> Path:
        """The run folder."""
        return Path(self.config.run)

    def record_metric(self, name: str, value: float | torch.Tensor | None, reduce: Reduction = "mean") -> None:
        """Record a value for the next report, where it is reduced over all steps of the interval and all ranks.

        Args:
            name: key in metrics.jsonl and the trackers. All ranks record the same names in the same order.
            value: a number or a tensor of one element, which is not copied to the host before the report; None on a
                rank without a value.
            reduce: `mean`, `sum`, `max` or `min`, over both steps and ranks.
        """
        self.recorder.record(name, value, reduce)
