"""Alerts to a webhook when a run resumes, a step is anomalous, no step completes for a while, or the run ends."""

from __future__ import annotations

import sys
import threading
import time

from megatron_ipt.observability.webhook import Webhook, read_webhook_url
from megatron_ipt.training.anomalies import RollBack
from megatron_ipt.training.callbacks import Callback, PendingUpdate
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.model_bundle import ModelBundle
from megatron_ipt.training.state import TrainState


class Alerts(Callback):
    """Sends the events that the section `alerts` selects, from rank 0."""

    name = "alerts"

    def __init__(self, context: RunContext) -> None:
        self._config, self._run = context.config.alerts, context.config.run
        variable = self._config.url_variable
        self._url = None if variable is None or context.groups.rank else read_webhook_url(variable)
        self._webhook: Webhook | None = None
        self._iteration, self._outcome = 0, ""
        self._closed, self._progressed = threading.Event(), threading.Event()

    def setup(self, context: RunContext, bundle: ModelBundle) -> None:
        """Start the thread that watches for stalls."""
        if self._url is not None:
            self._webhook = Webhook(self._url)
            threading.Thread(target=self._watch, name="alerts", daemon=True).start()

    def start(self, state: TrainState) -> None:
        """Send an alert if the run resumes."""
        self.between_steps(state)
        if state.iteration:
            self._alert("restart", f"resumes from iteration {state.iteration}")

    def before_optimizer_step(self, state: TrainState, update: PendingUpdate) -> None:
        """Send an alert about an anomaly that does not end the attempt."""
        if update.anomaly is not None:
            self._alert("spike", f"iteration {state.iteration + 1}: {update.anomaly}")

    def between_steps(self, state: TrainState) -> None:
        """Record that a step has completed."""
        self._iteration = state.iteration
        self._progressed.set()

    def finish(self, state: TrainState) -> None:
        """Record that the run is finished."""
        self._outcome = f"finished iteration {state.iteration}"

    def leave(self, state: TrainState) -> None:
        """Record that the run stops early."""
        self._outcome = f"stopped after iteration {state.iteration}; it resumes when it is started again"

    def close(self) -> None:
        """Send an alert about the end of the run and its cause, and flush all alerts."""
        error = sys.exception()
        self._closed.set()
        self._progressed.set()
        if self._webhook is None:
            return
        if isinstance(error, RollBack):
            self._alert("spike", f"iteration {error.iteration + 1} is anomalous: rolling back to the newest checkpoint")
        else:
            failure = f"failed after iteration {self._iteration}: {error or 'see its output'}"
            self._alert("end", failure if error is not None or not self._outcome else self._outcome)
        self._webhook.close()

    def _watch(self) -> None:
        """Send one alert per stall."""
        while not self._closed.is_set():
            self._progressed.clear()
            if not self._progressed.wait(self._config.stall_seconds):
                seconds = self._config.stall_seconds
                self._alert("stall", f"no step has completed for {seconds} s after iteration {self._iteration}")
                self._progressed.wait()

    def _alert(self, event: str, text: str) -> None:
        if self._webhook is not None and event in self._config.events:
            message = {"event": event, "run": self._run, "iteration": self._iteration, "time": time.time()}
            self._webhook.send({"text": f"{self._run}: {text}", **message})
