"""How far a run has come."""

from __future__ import annotations

from dataclasses import dataclass, field

from megatron_ipt.checkpointing.contents import Contents


@dataclass
class TrainState:
    """Progress of a run; all that is needed, with the weights and the optimizer, to go on."""

    iteration: int = 0
    consumed_train_samples: int = 0
    validation_loss: float | None = None
    """Where it has been measured since the last step."""
    recent_losses: list[float] = field(default_factory=list)
    """Training losses of the last steps, newest last."""

    @classmethod
    def saved_in(cls, contents: Contents) -> TrainState:
        """The progress at a checkpoint."""
        return cls(
            contents.iteration,
            contents.consumed_train_samples,
            contents.validation_loss,
            list(contents.recent_losses),
        )

    def progress(self) -> dict[str, int]:
        """What a finished run says it has done."""
        return {"iteration": self.iteration, "consumed_train_samples": self.consumed_train_samples}

    def advance(self, samples: int) -> None:
        """Count one more step of `samples`."""
        self.iteration += 1
        self.consumed_train_samples += samples
        self.validation_loss = None
