"""Chat templates, rendered by transformers, and the parts of a rendered conversation that the assistant writes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_ipt.chat.conversations import Conversation, Message, answers_of
from megatron_ipt.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Span = tuple[int, int]
"""Start and end of a part of a text, in characters."""
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class RejectedConversationError(ValueError):
    """The template cannot render a conversation, or its answers cannot be located in the rendered text."""


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja template with its variables, such as `bos_token`."""

    text: str
    variables: dict[str, Any]

    def render(self, conversation: Conversation) -> tuple[str, list[Span]]:
        """The text of a conversation, and the parts of it that the assistant writes after the prompt.

        Those are the template's `{% generation %}` blocks or, if it has none, what a message of the assistant adds to
        the prompt for it, white space at its end excluded.

        Raises:
            RejectedConversationError: the template raises an error, or changes earlier messages because of later ones.
            UserError: the template is not valid.
        """
        messages, tools, prompt = conversation.messages, conversation.tools, conversation.prompt_messages
        if not _GENERATION.search(self.text):
            whole, _ = self._call(messages, tools)
            answers = [number for number in answers_of(messages) if number >= prompt]
            return whole, [self._added(number, messages, tools, whole) for number in answers]
        whole, spans = self._call(messages, tools, marks_answers=True)
        if answers_of(messages)[0] < prompt:
            before, _ = self._call(messages[:prompt], tools)
            if not whole.startswith(before):
                raise _changed(prompt)
            spans = [span for span in spans if span[0] >= len(before)]
        return whole, spans

    def _added(self, number: int, messages: list[Message], tools: list[Any] | None, whole: str) -> Span:
        before, _ = self._call(messages[:number], tools, awaits_answer=True)
        after, _ = self._call(messages[: number + 1], tools)
        if not whole.startswith(after) or not after.startswith(before):
            raise _changed(number + 1)
        return len(before), len(after.rstrip())

    def _call(
        self,
        messages: list[Message],
        tools: list[Any] | None,
        *,
        awaits_answer: bool = False,
        marks_answers: bool = False,
    ) -> tuple[str, list[Span]]:
        import jinja2
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            texts, spans = render_jinja_template(
                conversations=[messages],
                tools=tools,
                chat_template=self.text,
                return_assistant_tokens_mask=marks_answers,
                add_generation_prompt=awaits_answer,
                **self.variables,
            )
        except jinja2.TemplateSyntaxError as error:
            reason = f"not a valid Jinja template: {error.message}"
            raise UserError("chat_template", f"line {error.lineno}", reason, "correct the template") from error
        except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise RejectedConversationError(f"the chat template rejects it: {error}") from error
        return texts[0], spans[0] if marks_answers else []


def read_template(given: str | None) -> str | None:
    """The template that a user's setting gives, as a file or in itself; None if it is not set.

    Raises:
        UserError: there is no such file, or it is not text.
    """
    if given is None or "{{" in given or "{%" in given:
        return given
    if not Path(given).is_file():
        raise UserError("chat_template", given, "no such file, nor a template", "name a Jinja file")
    try:
        return Path(given).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError("chat_template", given, f"not valid UTF-8: {error}", "name a Jinja file") from error


def choose_template(given: str | None, tokenizer: PreTrainedTokenizerFast, variables: dict[str, Any]) -> ChatTemplate:
    """The template `given` or, if it is None, that of the `tokenizer`, with the tokenizer's special tokens.

    Raises:
        UserError: there is none.
    """
    try:
        text: str = tokenizer.get_chat_template() if given is None else given
    except ValueError as error:
        reason = "the tokenizer has no chat template, or several without a default"
        raise UserError("chat_template", tokenizer.name_or_path, reason, "name a Jinja file: chat_template=") from error
    return ChatTemplate(text, {**tokenizer.special_tokens_map, **variables})


def _changed(number: int) -> RejectedConversationError:
    return RejectedConversationError(
        f"the chat template writes message {number} in another way when more follow, or when it is awaited; it needs"
        " {% generation %} blocks around what the assistant writes"
    )
