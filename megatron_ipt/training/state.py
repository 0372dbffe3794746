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
    """Global norm before clipping; None if the step was rejected or passed over."""
    is_skipped: bool = False
    """Whether the weights stayed as they were."""
    samples: int = 0
    stop_signal: int = 0
    """Number of a signal that asked some rank to stop; 0 without one."""
    votes: Mapping[str, float] = field(default_factory=dict)
    """Sum over all ranks of the votes of each callback."""


@dataclass
class TrainState:
    """How far a run has come."""

    iteration: int = 0
    """Optimizer steps, skipped ones included."""
    consumed_train_samples: int = 0
    validation_loss: float | None = None
    """Set by a validation since the last step."""
    last_step: StepResult = StepResult()

    @classmethod
    def saved_in(cls, contents: Contents) -> TrainState:
        """The progress at a checkpoint."""
        return cls(contents.iteration, contents.consumed_train_samples, contents.validation_loss)

    def progress(self) -> dict[str, int]:
        """The counts in the manifest of a finished run."""
        return {"iteration": self.iteration, "consumed_train_samples": self.consumed_train_samples}

    def advance(self, result: StepResult) -> None:
        """Count one more step."""
        self.iteration += 1
        self.consumed_train_samples += result.samples
        self.validation_loss = None
        self.last_step = result
