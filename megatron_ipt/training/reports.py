"""The progress line and the figures of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from megatron_ipt.observability.metrics import MetricsLog
from megatron_ipt.training.loss import LossMeter
from megatron_ipt.training.state import TrainState
from megatron_ipt.training.step import TrainStep
from megatron_ipt.training.trainer import Callback


class Reports(Callback):
    """Every `log_interval` iterations: loss, learning rate, gradient norm, throughput, time left."""

    def __init__(
        self,
        step: TrainStep,
        meter: LossMeter,
        metrics: MetricsLog | None,
        report: Callable[[str], None],
        *,
        log_interval: int,
        train_iters: int,
        tokens_per_sample: int,
        flops_per_token: float,
        world_size: int,
    ) -> None:
        self._step, self._meter, self._metrics, self._report = step, meter, metrics, report
        self._interval, self._train_iters = log_interval, train_iters
        self._tokens_per_sample, self._flops_per_token = tokens_per_sample, flops_per_token
        self._world_size = world_size

    def start(self, state: TrainState) -> None:
        """Start the clock."""
        self._mark(state)

    def after_step(self, state: TrainState) -> None:
        """Report when it is time."""
        if state.iteration % self._interval == 0:
            self._report_step(state)

    def _mark(self, state: TrainState) -> None:
        self._marked_seconds, self._marked_iteration = self._step.elapsed_seconds, state.iteration
        self._marked_samples = state.consumed_train_samples

    def _report_step(self, state: TrainState) -> None:
        losses = self._meter.take()
        seconds = self._step.elapsed_seconds - self._marked_seconds
        iterations = state.iteration - self._marked_iteration
        tokens = (state.consumed_train_samples - self._marked_samples) * self._tokens_per_sample
        tokens_per_second = tokens / seconds
        tflops_per_rank = tokens_per_second * self._flops_per_token / self._world_size / 1e12
        if self._metrics is not None:
            figures = {
                "consumed_train_samples": state.consumed_train_samples,
                "consumed_train_tokens": state.consumed_train_samples * self._tokens_per_sample,
                "lm_loss": losses.mean,
                "learning_rate": self._step.learning_rate,
                "grad_norm": self._step.grad_norm,
                "skipped_steps": self._step.skipped_steps,
                "tokens_per_second": tokens_per_second,
                "tflops_per_rank": tflops_per_rank,
                "step_seconds": seconds / iterations,
                **{f"source_loss/{name}": source.mean for name, source in losses.sources.items()},
                **{f"source_tokens/{name}": source.tokens for name, source in losses.sources.items()},
            }
            self._metrics.log(state.iteration, figures)
        left = timedelta(seconds=round((self._train_iters - state.iteration) * seconds / iterations))
        self._report(
            f"iteration {state.iteration}/{self._train_iters} | loss {losses.mean:.4f}"
            f" | lr {self._step.learning_rate:.2e} | grad norm {self._step.grad_norm:.3f}"
            f" | {tokens_per_second:,.0f} tokens/s | {tflops_per_rank:.3g} TFLOP/s a rank | ETA {left}"
        )
        self._mark(state)
