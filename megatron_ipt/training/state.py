"""Progress of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from megatron_ipt.checkpointing.contents import Contents


@dataclass(frozen=True)
class StepResult:
    """The outcome of a step; equal on all ranks."""

    learning_rate: float = 0.0
    grad_norm: float | None = None
    """Global norm before clipping; None if the update was rejected or the batch skipped."""
    is_skipped: bool = False
    """Whether the weights were left unchanged."""
    samples: int = 0
    stop_signal: int = 0
    """The number of a stop signal that some rank received; 0 if none did."""
    votes: Mapping[str, float] = field(default_factory=dict)
    """Sum over all ranks of the votes of each callback."""


@dataclass
class TrainState:
    """The progress of a run."""

    iteration: int = 0
    """Optimizer steps, including skipped ones."""
    consumed_train_samples: int = 0
    validation_loss: float | None = None
    """The result of a validation since the last step; None without one."""
    last_step: StepResult = StepResult()

    @classmethod
    def saved_in(cls, contents: Contents) -> TrainState:
        """Return the progress at a checkpoint."""
        return cls(contents.iteration, contents.consumed_train_samples, contents.validation_loss)

    def progress(self) -> dict[str, int]:
        """Return the counts for the manifest of a finished run."""
        return {"iteration": self.iteration, "consumed_train_samples": self.consumed_train_samples}

    def advance(self, result: StepResult) -> None:
        """Count one more step."""
        self.iteration += 1
        self.consumed_train_samples += result.samples
        self.validation_loss = None
        self.last_step = result
