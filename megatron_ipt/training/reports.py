"""The progress line and the figures of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from megatron_ipt.observability.metrics import MetricsLog
from megatron_ipt.parallel.agreement import from_main
from megatron_ipt.training.gauges import Gauges
from megatron_ipt.training.loss import Losses, LossMeter
from megatron_ipt.training.state import TrainState
from megatron_ipt.training.step import TrainStep
from megatron_ipt.training.stragglers import Stragglers
from megatron_ipt.training.trainer import Callback

_CARRIED = "carried_loss_sums"


@dataclass(frozen=True)
class Workload:
    """What a step computes, and what the machine could do at most (None where that is not known)."""

    train_iters: int
    tokens_per_sample: int
    flops_per_token: float
    world_size: int
    peak_tflops: float | None


class Reports(Callback):
    """Every `log_interval` iterations: loss, by source too, learning rate, gradient norm, throughput, memory, waits.

    A report covers whole intervals even when the run is stopped in the middle of one: before a checkpoint the sums of
    the losses so far are noted beside it, and a run that resumes from it goes on from them.
    """

    def __init__(
        self,
        step: TrainStep,
        meter: LossMeter,
        gauges: Gauges,
        stragglers: Stragglers,
        metrics: MetricsLog | None,
        report: Callable[[str], None],
        workload: Workload,
        *,
        log_interval: int,
    ) -> None:
        self._step, self._meter, self._gauges, self._metrics = step, meter, gauges, metrics
        self._stragglers = stragglers
        self._report, self._workload, self._interval = report, workload, log_interval
        self._skipped_before = 0

    def start(self, state: TrainState) -> None:
        """Start the clock; of a resumed run, go on from what was noted."""
        kept = self._metrics.kept if self._metrics is not None else []
        sums = [row[_CARRIED] for row in kept if row["iteration"] == state.iteration and _CARRIED in row]
        if carried := from_main(sums[-1:]):
            self._meter.carry(carried[0])
        self._skipped_before = max((row.get("skipped_steps", 0) for row in kept), default=0)
        self._mark(state)

    def after_step(self, state: TrainState) -> None:
        """Report when it is time."""
        if state.iteration % self._interval == 0 or state.iteration == self._workload.train_iters:
            self._report_steps(state)

    def before_save(self, state: TrainState) -> None:
        """Note what a run needs that resumes from here, and bring it to the disk; a collective call."""
        sums = self._meter.sums()
        if self._metrics is not None:
            if state.iteration > self._marked_iteration:
                self._metrics.note(state.iteration, {_CARRIED: sums})
            self._metrics.sync()

    def _mark(self, state: TrainState) -> None:
        self._marked_seconds, self._marked_iteration = self._step.elapsed_seconds, state.iteration
        self._marked_samples = state.consumed_train_samples

    def _report_steps(self, state: TrainState) -> None:
        losses = self._meter.take()
        seconds = self._step.elapsed_seconds - self._marked_seconds
        iterations = state.iteration - self._marked_iteration
        gauged = self._gauges.read(seconds, iterations)
        gauged |= self._stragglers.read()
        speed = self._measure_speed(state, seconds)
        if self._metrics is not None:
            progress = {
                "consumed_train_samples": state.consumed_train_samples,
                "consumed_train_tokens": state.consumed_train_samples * self._workload.tokens_per_sample,
                "lm_loss": losses.mean,
                "learning_rate": self._step.learning_rate,
                "grad_norm": self._step.grad_norm,
                "skipped_steps": self._skipped_before + self._step.skipped_steps,
                "step_seconds": seconds / iterations,
            }
            self._metrics.log(state.iteration, {**progress, **speed, **gauged, **_of_sources(losses)})
        left = timedelta(seconds=round((self._workload.train_iters - state.iteration) * seconds / iterations))
        self._report(f"{self._progress_line(state, losses, speed)} | ETA {left}")
        self._mark(state)

    def _measure_speed(self, state: TrainState, seconds: float) -> dict[str, float]:
        samples = state.consumed_train_samples - self._marked_samples
        tokens_per_second = samples * self._workload.tokens_per_sample / seconds
        tflops = tokens_per_second * self._workload.flops_per_token / self._workload.world_size / 1e12
        speed = {"tokens_per_second": tokens_per_second, "tflops_per_rank": tflops}
        if self._workload.peak_tflops is not None:
            speed["mfu"] = tflops / self._workload.peak_tflops
        return speed

    def _progress_line(self, state: TrainState, losses: Losses, speed: Mapping[str, float]) -> str:
        used = f" ({speed['mfu']:.1%} of peak)" if "mfu" in speed else ""
        return (
            f"iteration {state.iteration}/{self._workload.train_iters} | loss {losses.mean:.4f}"
            f" | lr {self._step.learning_rate:.2e} | grad norm {self._step.grad_norm:.3f}"
            f" | {speed['tokens_per_second']:,.0f} tokens/s | {speed['tflops_per_rank']:.3g} TFLOP/s a rank{used}"
        )


def _of_sources(losses: Losses) -> dict[str, Any]:
    means = {f"source_loss/{name}": source.mean for name, source in losses.sources.items()}
    return {**means, **{f"source_tokens/{name}": source.tokens for name, source in losses.sources.items()}}
