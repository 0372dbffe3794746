"""The training loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from megatron_ipt.parallel.agreement import max_over_ranks
from megatron_ipt.training.attempt import Attempt
from megatron_ipt.training.callbacks import Callback, check_names, load_state_dicts
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.model_bundle import ModelBundle
from megatron_ipt.training.recorder import Interval, Report
from megatron_ipt.training.state import StepResult, TrainState


class Step(Protocol):
    """One optimizer step on the next global batch."""

    def __call__(self, state: TrainState) -> StepResult:
        """Update the weights; `state` does not count this step yet."""


class Trainer:
    """Runs steps until `train_iters`, an iteration divisible by `exit_interval`, or a signal to stop."""

    def __init__(
        self,
        context: RunContext,
        bundle: ModelBundle,
        attempt: Attempt,
        step: Step,
        callbacks: Sequence[Callback],
    ) -> None:
        check_names(callbacks)
        self.state = attempt.state
        self.stop_signal = 0
        """The signal that stopped the run early; 0 if none did."""
        self._context, self._bundle, self._saved_states = context, bundle, attempt.callback_states
        self._step, self._callbacks = step, callbacks
        self._iterations = self._samples = 0
        """Since the last report."""

    def run(self) -> None:
        """Train until the end of the run or a stop signal.

        Raises:
            RollBack: the run has to resume from its newest checkpoint.
        """
        try:
            for callback in self._callbacks:
                callback.setup(self._context, self._bundle)
            load_state_dicts(self._callbacks, self._saved_states, self._context.log)
            for callback in self._callbacks:
                callback.start(self.state)
            self._train()
        finally:
            for callback in self._callbacks:
                callback.close()

    def _train(self) -> None:
        training = self._context.config.training
        # later, the signals are part of each step's reduction
        stop_signal = max_over_ranks(self._context.stop_signals.received, self._context.groups)
        self._context.clock.start()
        while self.state.iteration < training.train_iters:
            if stop_signal:
                self._leave(stop_signal)
                return
            self._run_step()
            stop_signal = self.state.last_step.stop_signal
            if training.exit_interval is not None and self.state.iteration % training.exit_interval == 0:
                break
        for callback in self._callbacks:
            callback.finish(self.state)

    def _run_step(self) -> None:
        training = self._context.config.training
        result = self._step(self.state)
        self.state.advance(result)
        self._iterations, self._samples = self._iterations + 1, self._samples + result.samples
        for callback in self._callbacks:
            callback.after_step(self.state)
        if self.state.iteration % training.log_interval == 0 or self.state.iteration == training.train_iters:
            self._report()
        for callback in self._callbacks:
            callback.between_steps(self.state)

    def _report(self) -> None:
        interval = Interval(self._iterations, self._samples, self._context.clock.take_interval())
        self._iterations = self._samples = 0
        for callback in self._callbacks:
            callback.before_report(self.state, interval)
        reduced = self._context.recorder.reduce()
        report = Report(interval, reduced, {name: metric.value for name, metric in reduced.items() if metric.weight})
        for callback in self._callbacks:
            callback.after_report(self.state, report)

    def _leave(self, stop_signal: int) -> None:
        self.stop_signal = stop_signal
        for callback in self._callbacks:
            callback.leave(self.state)
