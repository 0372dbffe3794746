"""Rephrasings of texts by the same engine, rendered next to their pairs (not in the paper)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import yaml

from megatron_ipt.config.synthesis import EngineConfig, RephraseConfig
from megatron_ipt.corpus.manifest import JsonObject
from megatron_ipt.errors import UserError
from megatron_ipt.lm.engine import Completion
from megatron_ipt.lm.prompt_tokenizer import PromptTokenizer
from megatron_ipt.pairs.grammar import escape_tags, render_context
from megatron_ipt.synthesis.generation.chains import is_augmented
from megatron_ipt.synthesis.records import TextRecord

_MIN_LENGTH_RATIO, _MAX_LENGTH_RATIO = 1 / 2, 3 / 2
_NGRAM_WORDS = 8
_MAX_COPIED_SHARE = 0.5


@dataclass(frozen=True)
class RephrasingPrompt:
    """The prompt for a rephrasing: instruction and examples before the text, and the cue after it."""

    head: str
    cue: str

    def render(self, text: str) -> str:
        """Render the text with the cue, after which the rephrasing follows."""
        return f"{render_context(text)}{self.cue}"


class Rephraser:
    """Chooses the texts to rephrase, builds their prompts, and validates the rephrasings.

    A rephrasing ends at EOS or where the next `<CON>` would begin, as pairs do.
    """

    def __init__(self, config: RephraseConfig, engine: EngineConfig, tokenizer: PromptTokenizer, seed: int) -> None:
        self._prompt = read_prompt(Path(config.prompt) if config.prompt else None)
        self._fraction, self._seed, self._tokenizer = config.fraction, seed, tokenizer
        self._max_model_len, self._max_new_tokens = engine.max_model_len, engine.max_new_tokens
        self._head = [*tokenizer.bos_ids, *tokenizer.encode(self._prompt.head)]

    def build_prompt(self, record: TextRecord) -> list[int] | TextRecord:
        """Return the prompt for the text of `record`; or the record, if its text is not to be rephrased."""
        if not record.pairs or not is_augmented(f"rephrase {record.id}", self._fraction, self._seed):
            return record
        ids = [*self._head, *self._tokenizer.encode(self._prompt.render(record.text))]
        is_long = len(self._tokenizer.encode(record.text)) > self._max_new_tokens
        if is_long or len(ids) + self._max_new_tokens > self._max_model_len:
            return replace(record, rephrasing_drop="text too long")
        return ids

    def apply(self, record: TextRecord, prompt_tokens: int, completion: Completion) -> TextRecord:
        """Return the record with the rephrasing, or with the reason why it was dropped.

        Args:
            record: the text and its pairs.
            prompt_tokens: the length of the prompt.
            completion: the answer of the engine.
        """
        rephrasing = completion.text.strip()
        reason = None if completion.failure is None else completion.failure.drop_reason
        if reason is None and completion.tokens >= self._max_new_tokens:
            reason = "unfinished"
        reason = reason or find_rejection_reason(record.text, rephrasing)
        return replace(
            record,
            rephrasing="" if reason else rephrasing,
            rephrasing_drop=reason,
            prompt_tokens=record.prompt_tokens + prompt_tokens,
            generated_tokens=record.generated_tokens + completion.tokens,
            failure=completion.failure,
        )


def find_rejection_reason(text: str, rephrasing: str) -> str | None:
    """Return why `rephrasing` is not accepted for `text`; None if it is.

    A rephrasing is a copy if more than half of its 8-grams of words occur in the text.
    """
    words, own_words = text.casefold().split(), rephrasing.casefold().split()
    if not own_words:
        return "empty"
    if escape_tags(rephrasing) != rephrasing:
        return "holds a tag"
    if len(own_words) > _MAX_LENGTH_RATIO * len(words):
        return "too long"
    if len(own_words) < _MIN_LENGTH_RATIO * len(words):
        return "too short"
    length = min(_NGRAM_WORDS, len(own_words))
    known, ngrams = set(_ngrams(words, length)), _ngrams(own_words, length)
    return "copied" if sum(ngram in known for ngram in ngrams) > _MAX_COPIED_SHARE * len(ngrams) else None


def _ngrams(words: list[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]


def read_prompt(file: Path | None) -> RephrasingPrompt:
    """Read a prompt from YAML with `instruction`, `cue` and `examples`; without a file, the packaged one.

    Raises:
        UserError: the file cannot be read, or has other fields.
    """
    packaged = resources.files("megatron_ipt.synthesis.generation") / "rephrasing_prompt.yaml"
    try:
        values = yaml.safe_load((file or packaged).read_text(encoding="utf-8"))
        return _parse(values)
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        reason = f"not a prompt for rephrasings: {error}"
        remedy = "set instruction, cue and a list of examples, each with text and rephrasing"
        raise UserError("rephrase.prompt", file, reason, remedy) from error


def _parse(values: JsonObject) -> RephrasingPrompt:
    if unknown := set(values) - {"instruction", "cue", "examples"}:
        raise ValueError(f"unknown field {min(unknown)}")
    cue = values["cue"].strip()
    if not cue:
        raise ValueError("the cue is empty")
    shown = "".join(f"{render_context(one['text'])}{cue} {one['rephrasing']}\n\n" for one in values["examples"])
    return RephrasingPrompt(f"{values['instruction'].strip()}\n\n{shown}", cue)
