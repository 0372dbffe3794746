"""The interface between the synthesis and the engine that runs the language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

STOP = "<CON>"
"""The tag with which a synthesizer begins another text: it has finished with its own."""


@dataclass(frozen=True)
class Request:
    """A prompt to complete.

    Attributes:
        key: identifies the request among those in flight.
        prompt: token ids, BOS included; text would make some engines add a second BOS.
        max_new_tokens: the maximum length of the completion.
    """

    key: int
    prompt: Sequence[int]
    max_new_tokens: int


@dataclass(frozen=True)
class Failure:
    """The reason why a prompt has no completion.

    Attributes:
        reason: one of a few texts, by which failures are counted.
        message: the message of the server.
        is_refusal: whether the prompt is the cause, so that it would fail again; otherwise the engine is the cause, and
            the prompt is sent again by the next run.
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
    """The number of GPUs that it uses in this process; 0 if it uses none, or if that is not known."""

    def submit(self, request: Request) -> None:
        """Add a request; others may be in flight."""

    def collect(self) -> list[Completion]:
        """Wait until at least one request in flight has finished or failed, and return all that have.

        Raises:
            UserError: no request can succeed with these settings.
            TemporaryFailure: the engine has stopped; running the same command again can help.
        """

    def score(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
        """Return the mean log-likelihood per token, in nats, of each answer after its prompt.

        Args:
            prompts: token ids of each prompt.
            answers: token ids of the answer to each prompt.

        Returns:
            One number per prompt. Must not be called while requests are in flight.
        """

    def close(self) -> None:
        """Release processes, connections and memory."""
