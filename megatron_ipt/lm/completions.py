"""Answers and errors of a completions server, checked and classified where they arrive."""

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
_PASSING_STATUSES = (408, 409, 425, 429)  # and 5xx
_KEY_STATUSES = (401, 403)
_FINISHED = ("stop", "length")
_MESSAGE_CHARACTERS = 300
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Answer:
    """The one choice of a completion; `logprobs` are those of its tokens where they were asked for."""

    text: str
    tokens: int
    logprobs: tuple[float | None, ...] = ()


class RefusedPrompt(Exception):
    """The server refused this prompt, and would again; the exception's text is what it said."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class PassingFailure(Exception):
    """A request failed in a way that may pass; `asked_seconds` is how long the server asks to wait, if it does."""

    def __init__(self, reason: str, message: str = "", asked_seconds: float = 0.0) -> None:
        self.reason, self.asked_seconds = reason, asked_seconds
        super().__init__(message)


def read_answer(body: bytes, max_tokens: int) -> Answer:
    """The answer that the body of a response holds; a lone surrogate, which no file can hold, becomes U+FFFD.

    Raises:
        PassingFailure: it is no whole completion.
        RefusedPrompt: a content filter of the server withheld it.
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
        raise RefusedPrompt("content filter", "the server's content filter withheld the answer")
    if not isinstance(text, str) or reason not in _FINISHED:
        raise _malformed(body)
    return Answer(_LONE_SURROGATE.sub("\ufffd", text), _tokens(usage, reason, max_tokens), _logprobs(logprobs, body))


def _tokens(usage: Any, reason: str, max_tokens: int) -> int:
    """The tokens of the answer; a server need not say how many they were."""
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    if isinstance(tokens, int) and tokens >= 0:
        return tokens
    return max_tokens if reason == "length" else 0


def _logprobs(found: Any, body: bytes) -> tuple[float | None, ...]:
    if found is None:
        return ()
    if not isinstance(found, list) or not all(one is None or isinstance(one, int | float) for one in found):
        raise _malformed(body)
    return tuple(found)


def _malformed(body: bytes) -> PassingFailure:
    return PassingFailure("answers that are no completions", shorten(body.decode(errors="replace")))


def explain_status(config: EngineConfig, status: int, headers: Mapping[str, str], message: str) -> Exception:
    """What an HTTP error means: a prompt refused, a failure that may pass, or settings that cannot work."""
    reason, message = f"HTTP {status}", shorten(message)
    if status in _REFUSED_STATUSES:
        return RefusedPrompt(reason, message)
    if status in _PASSING_STATUSES or status >= 500:
        seconds = _retry_after_seconds(headers)
        return PassingFailure(reason, f"{message} (try again in {seconds:g} s)" if seconds else message, seconds)
    again = "then run the same command again: finished parts are kept"
    reason = f"the server answers {reason}: {message}"
    if status in _KEY_STATUSES:
        remedy = f"set that environment variable to a key that the server accepts, {again}"
        return UserError("engine.endpoint.api_key_variable", config.endpoint.api_key_variable, reason, remedy)
    remedy = f"check the URL, and that the server knows engine.model={config.model}, {again}"
    return UserError("engine.endpoint.url", config.endpoint.url, reason, remedy)


def shorten(message: str) -> str:
    """The message on one line, cut where a proxy has sent a whole page."""
    return " ".join(message.split())[:_MESSAGE_CHARACTERS]


def _retry_after_seconds(headers: Mapping[str, str]) -> float:
    """The header Retry-After, which holds seconds or a date."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0
