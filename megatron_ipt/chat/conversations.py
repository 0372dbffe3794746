"""Conversations from rows of messages, or of prompts and completions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from megatron_ipt.config.chat_set import ChatSetConfig
from megatron_ipt.corpus.rows import BadRow, ObjectRow, read_objects, refuse_or_report

ASSISTANT = "assistant"
_ROLES = ("system", "developer", "user", ASSISTANT, "tool")
_SHAREGPT_ROLES = {"human": "user", "gpt": ASSISTANT}
_TOOLS_KEY = "tools"
_REMEDY = "fix the row, name its fields in messages_key, role_key, content_key, prompt_key and completion_key"

Message = dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """The messages up to the last answer, and the row of the input that they come from.

    Attributes:
        messages: each with `role`, `content` and whatever else the template reads.
        tools: schemas of functions that the model may call.
        prompt_messages: number of messages at the beginning that have no loss, whatever their role.
    """

    file: Path
    line: int
    messages: list[Message]
    tools: list[Any] | None = None
    prompt_messages: int = 0

    @property
    def prompt(self) -> str:
        """The text before the first answer with loss, case-folded and with single spaces, to compare prompts."""
        first = next(number for number in answers_of(self.messages) if number >= self.prompt_messages)
        said = " ".join(str(message.get("content")) for message in self.messages[:first])
        return " ".join(said.casefold().split())

    def values(self) -> dict[str, Any]:
        """Return the conversation as a row of JSONL."""
        return {"messages": self.messages} | ({} if self.tools is None else {_TOOLS_KEY: self.tools})


def answers_of(messages: list[Message]) -> list[int]:
    """Return the indices of the assistant's messages."""
    return [number for number, message in enumerate(messages) if message["role"] == ASSISTANT]


def read_conversations(
    config: ChatSetConfig, files: list[Path], report: Callable[[BadRow], None]
) -> Iterator[Conversation]:
    """Read the conversations in `files`.

    Args:
        config: its field names.
        files: JSONL or parquet.
        report: called with each row that holds no conversation.

    Raises:
        UserError: a row or a file cannot be read.
    """
    for row in read_objects(files, config.bad_input, report):
        try:
            yield _conversation(row, config)
        except ValueError as error:
            refuse_or_report(BadRow(row.file, row.line, str(error)), config.bad_input, report, _REMEDY)


def _conversation(row: ObjectRow, config: ChatSetConfig) -> Conversation:
    values = {key: value for key, value in row.values.items() if value is not None}
    if config.messages_key in values:
        prompt, messages = 0, _messages(values[config.messages_key], config.messages_key, config)
    elif config.prompt_key in values and config.completion_key in values:
        asked = _turn(values[config.prompt_key], "user", config.prompt_key, config)
        answered = _turn(values[config.completion_key], ASSISTANT, config.completion_key, config)
        prompt, messages = len(asked), [*asked, *answered]
    else:
        wanted = f"neither {config.messages_key!r} nor {config.prompt_key!r} and {config.completion_key!r}"
        raise ValueError(f"it has {wanted}, but {', '.join(map(repr, row.values)) or 'nothing'}")
    answers = answers_of(messages)
    if not answers or answers[-1] < prompt:
        raise ValueError("it has no answer of the assistant")
    read = Conversation(row.file, row.line, messages[: answers[-1] + 1], _tools(values.get(_TOOLS_KEY)), prompt)
    try:
        orjson.dumps(read.values())
    except TypeError as error:
        raise ValueError(f"a message holds a value that JSON does not have: {error}") from error
    return read


def _turn(value: object, role: str, key: str, config: ChatSetConfig) -> list[Message]:
    if isinstance(value, str):
        return _messages([{config.role_key: role, config.content_key: value}], key, config)
    return _messages(value, key, config)


def _messages(value: object, key: str, config: ChatSetConfig) -> list[Message]:
    if not isinstance(value, list) or not all(isinstance(message, Mapping) for message in value):
        raise ValueError(f"field {key!r} is not a list of messages")
    return [_message(message, config) for message in value]


def _message(given: Mapping[str, Any], config: ChatSetConfig) -> Message:
    """Give the fields of a message the names that templates read; parquet has a null where a message lacks a field."""
    values = {key: value for key, value in given.items() if value is not None}
    role = values.pop(config.role_key, None)
    role = _SHAREGPT_ROLES.get(role, role) if isinstance(role, str) else role
    if role not in _ROLES:
        known = ", ".join((*_ROLES, *_SHAREGPT_ROLES))
        raise ValueError(f"field {config.role_key!r} of a message holds {role!r}, which is none of {known}")
    content = values.pop(config.content_key, "" if "tool_calls" in values else None)
    if not isinstance(content, str):
        raise ValueError(f"field {config.content_key!r} of a message is not text")
    if role == ASSISTANT and not content.strip() and not values.get("tool_calls"):
        raise ValueError("an answer of the assistant is empty")
    return {"role": role, "content": content, **values}


def _tools(value: object) -> list[Any] | None:
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise ValueError(f"field {_TOOLS_KEY!r} is not JSON: {error}") from error
    if value is not None and not isinstance(value, list):
        raise ValueError(f"field {_TOOLS_KEY!r} is not a list")
    return value or None
