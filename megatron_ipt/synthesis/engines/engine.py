"""What the synthesis asks of a language model, whichever engine runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

STOP = "<CON>"
"""Where a synthesizer begins another text, it has finished with its own."""


@dataclass(frozen=True)
class Request:
    """A prompt as token ids, so that nothing adds a second BOS; `key` names it among the requests in flight."""

    key: int
    prompt: Sequence[int]
    max_new_tokens: int


@dataclass(frozen=True)
class Generation:
    """What was written after one prompt, without the end-of-sequence token, and how many tokens that took.

    `failure` says why the engine refused this one prompt; the text is then empty.
    """

    key: int
    text: str
    tokens: int
    failure: str | None = None


class Engine(Protocol):
    """A language model that decodes greedily; answers end at EOS or where `STOP` begins."""

    capacity: int
    """Requests worth having in flight."""
    depends_on_company: bool
    """Whether rounding lets an answer depend on the requests that run beside it."""
    devices: int
    """GPUs that it works on in this process; 0 for none, or none that can be known."""

    def submit(self, request: Request) -> None:
        """Take a request; may be called with requests in flight."""

    def collect(self) -> list[Generation]:
        """Wait until at least one request in flight has an answer, and hand out all that have.

        Raises:
            UserError: the engine is gone, and the run can only be started again.
        """

    def score(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
        """Mean log-likelihood per token, in nats, of each answer after its prompt; nothing else is in flight."""

    def close(self) -> None:
        """Let go of processes, connections and memory."""
