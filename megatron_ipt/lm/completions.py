"""Validates the responses of a completions server, and classifies its errors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from megatron_ipt.config.synthesis import EngineConfig
from megatron_ipt.errors import UserError

_REFUSED_STATUSES = (400, 413, 422)
_TRANSIENT_STATUSES = (408, 409, 425, 429)  # and 5xx
_AUTH_STATUSES = (401, 403)
_FINISHED = ("stop", "length")
_MESSAGE_CHARACTERS = 300
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Answer:
    """The only choice of a completion.

    Attributes:
        text: the generated text.
        tokens: the number of generated tokens.
        logprobs: the log-probability of each token, prompt included if it is echoed; empty unless requested.
    """

    text: str
    tokens: int
    logprobs: tuple[float | None, ...] = ()


class RefusedPrompt(Exception):
    """The server rejected this prompt, and would do so again; the text of the exception is the server's message."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class TransientFailure(Exception):
    """A request failed in a way that a retry may resolve.

    `retry_after_seconds` is the wait that the server asks for; 0 if it asks for none.
    """

    def __init__(self, reason: str, message: str = "", retry_after_seconds: float = 0.0) -> None:
        self.reason, self.retry_after_seconds = reason, retry_after_seconds
        super().__init__(message)


def read_answer(body: bytes, max_tokens: int) -> Answer:
    """Parse the body of a response.

    A lone surrogate, which cannot be encoded as UTF-8, is replaced by U+FFFD.

    Args:
        body: the JSON of a completion.
        max_tokens: the limit of the request; taken as the number of tokens of a completion that was cut off, if the
            server does not report it.

    Raises:
        TransientFailure: the body is not a complete completion.
        RefusedPrompt: the server's content filter withheld it.
    """
    try:
        found = json.loads(body)
        choice = found["choices"][0]
        text, reason, usage, logprobs = choice["text"], choice["finish_reason"], found.get("usage"), None
        if choice.get("logprobs") is not None:
            logprobs = choice["logprobs"]["token_logprobs"]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise _malformed(body) from error
    if reason == "content_filter":
        raise RefusedPrompt("content filter", "the server's content filter withheld the completion")
    if not isinstance(text, str) or reason not in _FINISHED:
        raise _malformed(body)
    return Answer(_LONE_SURROGATE.sub("\ufffd", text), _tokens(usage, reason, max_tokens), _logprobs(logprobs, body))


def _tokens(usage: Any, reason: str, max_tokens: int) -> int:
    """Return the number of generated tokens; servers may leave `usage` out."""
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    if isinstance(tokens, int) and tokens >= 0:
        return tokens
    return max_tokens if reason == "length" else 0


def _logprobs(found: Any, body: bytes) -> tuple[float | None, ...]:
    if found is None:
        return ()
    if not isinstance(found, list) or not all(value is None or isinstance(value, int | float) for value in found):
        raise _malformed(body)
    return tuple(found)


def _malformed(body: bytes) -> TransientFailure:
    return TransientFailure("the response is not a completion", shorten(body.decode(errors="replace")))


def explain_status(config: EngineConfig, status: int, headers: Mapping[str, str], message: str) -> Exception:
    """Convert an HTTP error to the exception to raise.

    Returns:
        A RefusedPrompt; a TransientFailure, if a retry may help; or a UserError, if the settings cannot work.
    """
    reason, message = f"HTTP {status}", shorten(message)
    if status in _REFUSED_STATUSES:
        return RefusedPrompt(reason, message)
    if status in _TRANSIENT_STATUSES or status >= 500:
        seconds = _retry_after_seconds(headers)
        message = f"{message} (retry after {seconds:g} s)" if seconds else message
        return TransientFailure(reason, message, seconds)
    again = "then run the same command again: finished parts are kept"
    reason = f"the server responds with {reason}: {message}"
    if status in _AUTH_STATUSES:
        remedy = f"set this environment variable to a key that the server accepts, {again}"
        return UserError("engine.endpoint.api_key_variable", config.endpoint.api_key_variable, reason, remedy)
    remedy = f"check the URL, and that the server serves engine.model={config.model}, {again}"
    return UserError("engine.endpoint.url", config.endpoint.url, reason, remedy)


def shorten(message: str) -> str:
    """Return the message on one line and truncated: proxies send whole HTML pages."""
    return " ".join(message.split())[:_MESSAGE_CHARACTERS]


def _retry_after_seconds(headers: Mapping[str, str]) -> float:
    """Parse the header Retry-After, which holds seconds or a date; 0 if it is missing or invalid."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0
