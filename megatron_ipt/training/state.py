"""How far a run has come."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TrainState:
    """Progress of a run; all that is needed, with the weights and the optimizer, to go on."""

    iteration: int = 0
    consumed_train_samples: int = 0

    def advance(self, samples: int) -> None:
        """Count one more step of `samples`."""
        self.iteration += 1
        self.consumed_train_samples += samples
