"""The progress line, and the row of metrics.jsonl at each log interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.models.accounting import flops_per_token
from megatron_ipt.training.callbacks import Callback
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.gauges import peak_tflops
from megatron_ipt.training.loss import SOURCE_LOSS, Losses, LossMeter
from megatron_ipt.training.recorder import Interval, Report
from megatron_ipt.training.remaining_time import seconds_left
from megatron_ipt.training.state import TrainState


class MetricsReporter(Callback):
    """Reports losses in total and by source, learning rate, gradient norm, throughput and the callbacks' metrics.

    A report covers a whole interval even if the run was stopped within it: the values recorded so far are saved in the
    checkpoint, and the resumed run continues from them.
    """

    name = "metrics"

    def __init__(self, context: RunContext, meter: LossMeter) -> None:
        config = context.config
        self._context, self._meter = context, meter
        self._flops_per_token = flops_per_token(config.model, config.data.seq_length)
        self._peak_tflops = peak_tflops(context.groups.device, config.precision)
        self._skipped_steps = 0
        self._is_complete = False

    def start(self, state: TrainState) -> None:
        """Log that losses and counts start here if the checkpoint, from an earlier version, does not hold them."""
        if state.iteration and not self._is_complete:
            self._context.log(
                f"the checkpoint is from an earlier version: the next report covers the steps after iteration "
                f"{state.iteration}, and skipped steps are counted from there"
            )

    def after_step(self, state: TrainState) -> None:
        """Count skipped steps."""
        self._skipped_steps += state.last_step.is_skipped

    def before_report(self, state: TrainState, interval: Interval) -> None:
        """Record the losses."""
        self._meter.record(self._context.recorder)

    def after_report(self, state: TrainState, report: Report) -> None:
        """Print the progress line and write the row."""
        losses = Losses.of(report.reduced)
        speed = self._speed(report.interval)
        others = {name: value for name, value in report.metrics.items() if not name.startswith(SOURCE_LOSS)}
        sources = {f"{SOURCE_LOSS}{name}": source.mean for name, source in losses.sources.items()}
        tokens = {f"source_tokens/{name}": source.tokens for name, source in losses.sources.items()}
        row = {**self._progress(state, losses, report.interval), **speed, **others, **sources, **tokens}
        self._context.metrics.log(state.iteration, row)
        left = seconds_left(self._context.config, self._context.clock, state.iteration, row["step_seconds"])
        self._context.log(_progress_line(self._context.config, state, losses, speed, left))

    def state_dict(self) -> dict[str, Any]:
        """Return the values recorded since the last report, over all ranks, and the number of skipped steps."""
        self._meter.record(self._context.recorder)
        return {"recorded": self._context.recorder.state(), "skipped_steps": self._skipped_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Include the values recorded before the run was stopped in the next report."""
        self._context.recorder.carry(state["recorded"])
        self._skipped_steps, self._is_complete = state["skipped_steps"], True

    def _progress(self, state: TrainState, losses: Losses, interval: Interval) -> dict[str, float | None]:
        return {
            "consumed_train_samples": state.consumed_train_samples,
            "consumed_train_tokens": state.consumed_train_samples * self._context.config.data.seq_length,
            "lm_loss": losses.mean,
            "learning_rate": state.last_step.learning_rate,
            "grad_norm": state.last_step.grad_norm,
            "skipped_steps": self._skipped_steps,
            "step_seconds": interval.seconds / interval.iterations,
        }

    def _speed(self, interval: Interval) -> dict[str, float]:
        tokens_per_second = interval.samples * self._context.config.data.seq_length / interval.seconds
        tflops = tokens_per_second * self._flops_per_token / self._context.groups.world_size / 1e12
        speed = {"tokens_per_second": tokens_per_second, "tflops_per_rank": tflops}
        if self._peak_tflops is not None:
            speed["mfu"] = tflops / self._peak_tflops
        return speed


def _progress_line(
    config: PretrainConfig, state: TrainState, losses: Losses, speed: Mapping[str, float], left_seconds: float
) -> str:
    used = f" ({speed['mfu']:.1%} of peak)" if "mfu" in speed else ""
    return (
        f"iteration {state.iteration}/{config.training.train_iters} | loss {_or_none(losses.mean, '.4f')}"
        f" | lr {state.last_step.learning_rate:.2e} | grad norm {_or_none(state.last_step.grad_norm, '.3f')}"
        f" | {speed['tokens_per_second']:,.0f} tokens/s | {speed['tflops_per_rank']:.3g} TFLOP/s/GPU{used}"
        f" | ETA {timedelta(seconds=round(left_seconds))}"
    )


def _or_none(value: float | None, form: str) -> str:
    """Format `value`, or return "none" without a loss (all tokens masked) or gradient norm (update not applied)."""
    return "none" if value is None or math.isnan(value) else format(value, form)
