"""Profiling of a range of iterations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from megatron_ipt.errors import UserError
from megatron_ipt.training.callbacks import Callback
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.state import TrainState


class Profiler(Callback):
    """Profiles the iterations from `first_iteration` to `last_iteration` on the selected ranks."""

    name = "profiler"

    def __init__(self, context: RunContext) -> None:
        """
        Raises:
            UserError: the tool needs a GPU, and there is none.
        """
        config, rank = context.config.profile, context.groups.rank
        if config.tool == "nsys" and not torch.cuda.is_available():
            raise UserError("profile.tool", "nsys", "Nsight Systems needs a GPU, and there is none", "set it to torch")
        self._config, self._folder, self._rank = config, context.run / "profile", rank
        self._is_chosen = config.tool is not None and rank in config.ranks
        self._recording = ExitStack()

    def start(self, state: TrainState) -> None:
        """Start recording if the first step is the first iteration to profile."""
        if self._is_chosen and state.iteration + 1 == self._config.first_iteration:
            record = _record_range() if self._config.tool == "nsys" else _record_trace(self._file)
            self._recording.enter_context(record)

    def after_step(self, state: TrainState) -> None:
        """Stop after the last iteration to profile; start before the first."""
        if state.iteration == self._config.last_iteration:
            self._recording.close()
        self.start(state)

    def close(self) -> None:
        """Write the profile recorded so far."""
        self._recording.close()

    @property
    def _file(self) -> Path:
        iterations = f"{self._config.first_iteration}-{self._config.last_iteration}"
        return self._folder / f"rank_{self._rank:05d}_iterations_{iterations}.json.gz"


@contextmanager
def _record_trace(file: Path) -> Iterator[None]:
    """Record a trace for Perfetto or chrome://tracing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with torch.profiler.profile(record_shapes=True, profile_memory=True) as profile:
        yield
    profile.export_chrome_trace(str(file))


@contextmanager
def _record_range() -> Iterator[None]:
    """Mark the range for `nsys profile --capture-range=cudaProfilerApi`, and annotate operations with their shapes."""
    autograd: Any = torch.autograd.profiler  # torch has no types for this module
    with torch.cuda.profiler.profile(), autograd.emit_nvtx(record_shapes=True):
        yield
