"""Recording of the starts of a run and of its productive time, over all restarts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psutil
import torch

from megatron_ipt.observability.sessions import SESSIONS_NAME, append_session_event, read_sessions
from megatron_ipt.training.callbacks import Callback
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.recorder import Report
from megatron_ipt.training.state import TrainState


class Sessions(Callback):
    """Appends to sessions.jsonl on rank 0, and reports goodput.

    Productive time is saved in checkpoints, so the time of steps that a restart repeats does not count.
    """

    name = "sessions"

    def __init__(self, context: RunContext, *, is_roll_back: bool, now: Callable[[], float] = time.time) -> None:
        """`is_roll_back`: an earlier attempt of this process belongs to the same session."""
        self._context, self._is_roll_back, self._now = context, is_roll_back, now
        self._is_main = context.groups.rank == 0
        self._productive_before = self._clock_at_start = 0.0
        self._first_started = now()

    def start(self, state: TrainState) -> None:
        """Record a start."""
        self._clock_at_start = self._context.clock.step_seconds
        if not self._is_main:
            return
        file, groups = self._context.run / SESSIONS_NAME, self._context.groups
        if not self._is_roll_back:
            about = {"ranks": groups.world_size, "layout": groups.layout, "device": _device_name(groups.device)}
            append_session_event(file, {"started": psutil.Process().create_time(), "ended": self._now(), **about})
        self._record(self._productive_before)
        if (times := read_sessions(file)) is not None:
            self._first_started = times.sessions[0].started

    def after_report(self, state: TrainState, report: Report) -> None:
        """Record the productive time, and report goodput."""
        self._record(self._productive_seconds)
        report.metrics["goodput"] = self._productive_seconds / (self._now() - self._first_started)

    def finish(self, state: TrainState) -> None:
        """Record the productive time at the end."""
        self._record(self._productive_seconds)

    leave = finish

    def state_dict(self) -> dict[str, Any]:
        """Return the productive time so far, in seconds."""
        return {"productive_seconds": self._productive_seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Add the productive time before the checkpoint."""
        self._productive_before += state["productive_seconds"]

    @property
    def _productive_seconds(self) -> float:
        return self._productive_before + self._context.clock.running_seconds - self._clock_at_start

    def _record(self, productive_seconds: float) -> None:
        if self._is_main:
            event = {"ended": self._now(), "productive_seconds": productive_seconds}
            append_session_event(self._context.run / SESSIONS_NAME, event)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
