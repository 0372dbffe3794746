"""What a synthesis counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Counts:
    """Sums over the texts of a corpus; `drops` counts dropped pieces of output by reason."""

    texts: int = 0
    documents: int = 0
    augmented_texts: int = 0
    texts_without_pairs: int = 0
    pairs: int = 0
    texts_cut: int = 0
    generated_tokens: int = 0
    drops: Counter[str] = field(default_factory=Counter)

    def add(self, other: Counts) -> None:
        """Add the sums of another part of the corpus."""
        for name, value in vars(other).items():
            if name == "drops":
                self.drops.update(value)
            else:
                setattr(self, name, getattr(self, name) + value)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, reasons in alphabetical order."""
        return {**vars(self), "drops": dict(sorted(self.drops.items()))}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Counts:
        """What `to_dict` gave."""
        return cls(**{**values, "drops": Counter(values["drops"])})
