"""Conversations as token sequences that are no longer than the model's."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from megatron_ipt.chat.conversations import Conversation, answers_of
from megatron_ipt.chat.encoding import ChatEncoder, RenderedChat
from megatron_ipt.chat.templates import RejectedConversationError
from megatron_ipt.config.chat_set import ChatSetConfig
from megatron_ipt.corpus.rows import BadRow, refuse_or_report
from megatron_ipt.observability.progress import ProgressDisplay
from megatron_ipt.tokenization.masked_sequences import MaskedSequence

_BATCH = 1000  # conversations that `tokenizers` encodes at once, on all cores


@dataclass(frozen=True)
class EncodedConversation:
    """A conversation, and as much of it as fits in a sequence."""

    conversation: Conversation
    sequence: MaskedSequence


def encode_conversations(
    conversations: Sequence[Conversation],
    encoder: ChatEncoder,
    config: ChatSetConfig,
    left_out: Counter[str],
    report: Callable[[BadRow], None],
) -> Iterator[EncodedConversation]:
    """Encode conversations, in their order.

    One that is longer than a sequence ends with its last answer that fits as a whole; if there is none, it is left out.

    Args:
        conversations: to encode.
        encoder: of the tokenizer and the template.
        config: length of a sequence, and what happens to bad rows.
        left_out: counts answers and conversations that do not fit, by reason.
        report: called with each row that is skipped because the template rejects it.

    Raises:
        UserError: the template is invalid, or rejects a conversation.
    """
    with ProgressDisplay("encoding", "conversations") as display:
        pending = display.track(conversations)
        while batch := list(islice(pending, _BATCH)):
            rendered = list(_render(batch, encoder, config, report))
            sequences = encoder.encode([chat for _, chat in rendered])
            for (one, _), sequence in zip(rendered, sequences, strict=True):
                if sequence.ids.size <= config.seq_length:
                    yield EncodedConversation(one, sequence)
                elif (cut := _cut(one, encoder, config.seq_length, left_out)) is not None:
                    yield EncodedConversation(one, cut)


def _render(
    batch: Sequence[Conversation], encoder: ChatEncoder, config: ChatSetConfig, report: Callable[[BadRow], None]
) -> Iterator[tuple[Conversation, RenderedChat]]:
    for one in batch:
        try:
            yield one, encoder.render(one)
        except RejectedConversationError as error:
            bad = BadRow(one.file, one.line, str(error))
            refuse_or_report(bad, config.bad_input, report, "change the row or the template")


def _cut(one: Conversation, encoder: ChatEncoder, seq_length: int, left_out: Counter[str]) -> MaskedSequence | None:
    def encode_up_to(answer: int) -> MaskedSequence:
        return next(encoder.encode([encoder.render(replace(one, messages=one.messages[: answer + 1]))]))

    answers = [number for number in answers_of(one.messages) if number >= one.prompt_messages]
    fitting = bisect_right(answers, seq_length, key=lambda answer: encode_up_to(answer).ids.size)
    if not fitting:
        left_out["conversation longer than the sequence"] += 1
        return None
    left_out["answer beyond the sequence"] += len(answers) - fitting
    return encode_up_to(answers[fitting - 1])
