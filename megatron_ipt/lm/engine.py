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
class Failure:
    """Why a prompt has no answer.

    `reason` is one of a few, so that failures can be counted by it; `message` is what the server said. A refusal is
    the fault of the prompt, and asking again would not help. Any other failure is the fault of the engine: the prompt
    has yet to be answered.
    """

    reason: str
    message: str
    is_refusal: bool

    @property
    def drop_reason(self) -> str:
        """What is counted where the answer would be."""
        return f"refused by the engine: {self.reason}"

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" if self.message else self.reason


@dataclass(frozen=True)
class Generation:
    """What was written after one prompt, without the end-of-sequence token, and how many tokens that took.

    Where there is a `failure`, the text is empty.
    """

    key: int
    text: str
    tokens: int
    failure: Failure | None = None


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
        """Wait until at least one request in flight has an answer or has failed, and return all that have.

        Raises:
            UserError: the engine cannot work with these settings.
            TemporaryFailure: the engine is gone, and starting the same command again can help.
        """

    def score(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
        """Mean log-likelihood per token, in nats, of each answer after its prompt; nothing else is in flight."""

    def close(self) -> None:
        """Let go of processes, connections and memory."""
