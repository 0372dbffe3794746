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
        """The reason under which the prompt is counted as dropped."""
        return f"refused by the engine: {self.reason}"

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" if self.message else self.reason


@dataclass(frozen=True)
class Completion:
    """The text generated after a prompt, without the end-of-sequence token, and its number of tokens.

    The text is empty if there is a `failure`.
    """

    key: int
    text: str
    tokens: int
    failure: Failure | None = None


class LMEngine(Protocol):
    """A language model that decodes greedily; completions end at EOS or where `STOP` begins."""

    capacity: int
    """The number of requests that keep the engine busy."""
    batch_invariant: bool
    """Whether a completion is the same whatever requests share its batch; rounding of padded batches can change it."""
    devices: int
    """GPUs that it uses in this process; 0 if there are none or they are not known."""

    def submit(self, request: Request) -> None:
        """Add a request, also while others are in flight."""

    def collect(self) -> list[Completion]:
        """Wait until at least one request in flight has finished or failed, and return all that have.

        Raises:
            UserError: the engine cannot work with these settings.
            TemporaryFailure: the engine is gone; running the same command again can help.
        """

    def score(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
        """Mean log-likelihood per token, in nats, of each answer after its prompt; nothing else is in flight."""

    def close(self) -> None:
        """Release processes, connections and memory."""
