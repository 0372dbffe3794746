"""The synthesizer's tokenizer, the same for every engine, for prompts and for tuning sequences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from megatron_ipt.data.transformers_tokenizer import LoadedTokenizer, load_tokenizer


class PromptTokenizer:
    """Token ids of plain text; a special token that a text happens to spell out is text like any other."""

    def __init__(self, loaded: LoadedTokenizer) -> None:
        self._tokenizer = Tokenizer.from_str(loaded.tokenizer_json)
        self._tokenizer.encode_special_tokens = True
        self.vocab_size = loaded.vocab_size
        self.bos_ids = [] if loaded.bos_id is None else [loaded.bos_id]
        """BOS as a list: one id, or none where the model has none."""
        self.eos_ids = [] if loaded.eos_id is None else [loaded.eos_id]
        """EOS, likewise."""

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without special tokens."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_after(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """Token ids of a prompt and of the answer after it, the prompt's being the same as without an answer.

        Tokens that would straddle the border, such as line ends that a byte-level tokenizer groups by what follows
        them, are not made: at inference the prompt stands alone.
        """
        alone, whole = self.encode(prompt), self.encode(prompt + answer)
        if whole[: len(alone)] == alone:
            return alone, whole[len(alone) :]
        return alone, self.encode(answer)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer: what stands before EOS, special tokens left out."""
        ends = [ids.index(eos) for eos in self.eos_ids if eos in ids]
        text: str = self._tokenizer.decode(list(ids[: min(ends, default=len(ids))]), skip_special_tokens=True)
        return text

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Where each token of `text` begins and ends, in characters."""
        found: list[tuple[int, int]] = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return found

    def cut(self, text: str, max_tokens: int) -> str:
        """The beginning of `text` that takes at most `max_tokens` tokens, ending with a whole word."""
        offsets = self.offsets(text)
        if len(offsets) <= max_tokens:
            return text
        beginning = text[: offsets[max(max_tokens, 1) - 1][1]]
        whole, space, _ = beginning.rpartition(" ")
        return whole if space else beginning


def load_prompt_tokenizer(model: str) -> PromptTokenizer:
    """The tokenizer of a Hugging Face folder, or of a name on the hub.

    Raises:
        UserError: there is none, or transformers cannot load it.
    """
    return PromptTokenizer(load_tokenizer(Path(model)))
