"""Token ids and loss masks of conversations: special tokens come from the template, never from what is said.

transformers renders a conversation to one text and looks for special tokens in it, wherever they come from. Here, their
names in what is said are hidden while the template is rendered; those that the text then holds are the template's, and
are replaced by added tokens of another name. The text is encoded in one piece, with the names in what is said as text,
so that the ids are those of `apply_chat_template` for any conversation without such names.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from tokenizers import AddedToken, Tokenizer

from megatron_ipt.chat.conversations import Conversation
from megatron_ipt.chat.templates import ChatTemplate, RejectedConversationError, Span
from megatron_ipt.corpus.indexed_writer import BEGINS_DOCUMENT, HAS_LOSS
from megatron_ipt.errors import UserError
from megatron_ipt.tokenization.masked_sequences import MaskedSequence
from megatron_ipt.tokenization.transformers_tokenizer import LoadedTokenizer

# Unicode's noncharacters: no text that is meant for others holds them.
_SAID, _WRITTEN = "\U0010fffe", "\U0010ffff"
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


@dataclass(frozen=True)
class RenderedChat:
    """The text of a conversation with stand-ins for the template's special tokens, and its parts with loss."""

    text: str
    spans: list[Span]
    special_tokens: int


class ChatEncoder:
    """Encodes conversations by a chat template, and records which special tokens end an answer."""

    def __init__(self, loaded: LoadedTokenizer, template: ChatTemplate) -> None:
        special = [token for token in orjson.loads(loaded.tokenizer_json)["added_tokens"] if token["special"]]
        special.sort(key=lambda token: -len(token["content"]))  # the longest match wins, as in `tokenizers`
        self.turn_ends: dict[str, int] = {}
        """The special tokens that have ended an answer so far, with their ids."""
        self._template = template
        self._ids = {token["content"]: int(token["id"]) for token in special}
        self._numbers = {name: number for number, name in enumerate(self._ids)}
        names = "|".join(map(re.escape, self._ids)) or "(?!)"
        self._name, self._name_or_hidden = re.compile(names), re.compile(f"{_SAID}([0-9]+){_SAID}|{names}")
        self._tokenizer = Tokenizer.from_str(loaded.tokenizer_json)
        self._tokenizer.encode_special_tokens = True
        stand_ins = [_stand_in(number) for number in self._numbers.values()]
        flags = [{flag: token[flag] for flag in _FLAGS} for token in special]
        self._tokenizer.add_tokens([AddedToken(name, **own) for name, own in zip(stand_ins, flags, strict=True)])
        vocab = self._tokenizer.get_vocab(with_added_tokens=True)
        stand_in_ids = [vocab[name] for name in stand_ins]
        self._first_stand_in = min(stand_in_ids, default=loaded.vocab_size)
        assert self._first_stand_in >= loaded.vocab_size
        self._own_ids = np.arange(self._first_stand_in + len(stand_ins), dtype=np.uint32)
        self._own_ids[stand_in_ids] = list(self._ids.values())

    def render(self, conversation: Conversation) -> RenderedChat:
        """Render a conversation, with stand-ins for the special tokens that the template writes.

        Raises:
            RejectedConversationError: the template cannot render it, or not so that its answers can be found.
            UserError: the template is not valid, or ends an answer without a special token.
        """
        messages, tools = (_map_texts(part, self._hide) for part in (conversation.messages, conversation.tools))
        text, spans = self._template.render(replace(conversation, messages=messages, tools=tools))
        for start, end in spans:
            self._note_end(text[start:end].rstrip(), conversation)
        return self._place_stand_ins(text, spans)

    def encode(self, rendered: Sequence[RenderedChat]) -> Iterator[MaskedSequence]:
        """Encode rendered conversations, each a document; a token with any character in a part with loss has loss.

        Raises:
            UserError: the tokenizer does not recognize a special token where the template writes it.
        """
        encodings = self._tokenizer.encode_batch([one.text for one in rendered], add_special_tokens=False)
        for one, encoding in zip(rendered, encodings, strict=True):
            ids = np.asarray(encoding.ids, np.uint32)
            if (ids >= self._first_stand_in).sum() != one.special_tokens:
                reason = "the tokenizer does not recognize a special token where it stands (single_word, normalized)"
                raise UserError("chat_template", "", reason, "write special tokens where the tokenizer finds them")
            yield MaskedSequence(self._own_ids[ids], _flags(np.asarray(encoding.offsets, np.int64), one.spans))

    def _hide(self, text: str) -> str:
        if _SAID in text or _WRITTEN in text:
            raise RejectedConversationError("it holds U+10FFFE or U+10FFFF, which are not characters")
        return self._name.sub(lambda found: f"{_SAID}{self._numbers[found[0]]}{_SAID}", text)

    def _note_end(self, answer: str, conversation: Conversation) -> None:
        name = next((name for name in self._ids if answer.endswith(name)), None)
        if name is None:
            reason = (
                f"it ends the answer of {conversation.file}:{conversation.line} without a special token of the"
                " tokenizer, so the model could not learn to stop"
            )
            remedy = "end what the assistant says with one, such as eos_token, inside any {% generation %} block"
            raise UserError("chat_template", f"...{answer[-20:]!r}", reason, remedy)
        self.turn_ends[name] = self._ids[name]

    def _place_stand_ins(self, text: str, spans: list[Span]) -> RenderedChat:
        """Replace the template's special tokens by their stand-ins, and restore their names in what is said."""
        names = list(self._ids)
        pieces: list[str] = []
        ends, shifts, special_tokens, last = list[int](), [0], 0, 0
        for found in self._name_or_hidden.finditer(text):
            is_said = found[1] is not None
            new = names[int(found[1])] if is_said else _stand_in(self._numbers[found[0]])
            pieces += [text[last : found.start()], new]
            special_tokens += not is_said
            last = found.end()
            ends.append(last)
            shifts.append(shifts[-1] + len(new) - len(found[0]))
        moved = [
            (start + shifts[bisect_right(ends, start)], end + shifts[bisect_right(ends, end)]) for start, end in spans
        ]
        return RenderedChat("".join([*pieces, text[last:]]), moved, special_tokens)


def _stand_in(number: int) -> str:
    return f"{_WRITTEN}{number}{_WRITTEN}"


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Change every text in nested lists and objects, their keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _map_texts(one, change) for key, one in value.items()}
    return [_map_texts(one, change) for one in value] if isinstance(value, list) else value


def _flags(offsets: npt.NDArray[np.int64], spans: Sequence[Span]) -> npt.NDArray[np.uint8]:
    flags = np.zeros(len(offsets), np.uint8)
    flags[0] |= BEGINS_DOCUMENT
    for start, end in spans:
        flags[(offsets[:, 0] < end) & (offsets[:, 1] > start)] |= HAS_LOSS
    return flags
