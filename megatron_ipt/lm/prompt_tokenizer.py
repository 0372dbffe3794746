"""The synthesizer's tokenizer, shared by all engines, for prompts and for tuning sequences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from megatron_ipt.tokenization.transformers_tokenizer import LoadedTokenizer, load_tokenizer


class PromptTokenizer:
    """Encodes plain text; the name of a special token in a text is encoded like any other characters."""

    def __init__(self, loaded: LoadedTokenizer) -> None:
        self._tokenizer = Tokenizer.from_str(loaded.tokenizer_json)
        self._tokenizer.encode_special_tokens = True
        self.vocab_size = loaded.vocab_size
        self.bos_ids = [] if loaded.bos_id is None else [loaded.bos_id]
        """BOS as a list: one id, or empty if the model has none."""
        self.eos_ids = [] if loaded.eos_id is None else [loaded.eos_id]
        """EOS as a list: one id, or empty if the model has none."""

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`, without special tokens."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_after(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """Return the token ids of a prompt and of the answer after it; the prompt has the ids that it has alone."""
        alone, whole = self.encode(prompt), self.encode(prompt + answer)
        if whole[: len(alone)] == alone:
            return alone, whole[len(alone) :]
        return alone, self.encode(answer)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of an answer up to EOS, without special tokens."""
        ends = [ids.index(eos) for eos in self.eos_ids if eos in ids]
        text: str = self._tokenizer.decode(list(ids[: min(ends, default=len(ids))]), skip_special_tokens=True)
        return text

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Return the start and end of each token of `text`, in characters."""
        found: list[tuple[int, int]] = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return found

    def cut(self, text: str, max_tokens: int) -> str:
        """Return the longest beginning of `text` with at most `max_tokens` tokens that ends with a whole word."""
        offsets = self.offsets(text)
        if len(offsets) <= max_tokens:
            return text
        beginning = text[: offsets[max(max_tokens, 1) - 1][1]]
        whole, space, _ = beginning.rpartition(" ")
        return whole if space else beginning


def load_prompt_tokenizer(model: str) -> PromptTokenizer:
    """Load the tokenizer of a Hugging Face folder or hub name.

    Raises:
        UserError: there is none, or transformers cannot load it.
    """
    return PromptTokenizer(load_tokenizer(Path(model)))
