"""A text said in other words by the same engine, to stand beside its pairs (not in the paper)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from megatron_ipt.config.synthesis import EngineConfig, RephraseConfig
from megatron_ipt.errors import UserError
from megatron_ipt.synthesis.chains import is_augmented
from megatron_ipt.synthesis.engines.engine import Generation
from megatron_ipt.synthesis.grammar import break_tags, render_context
from megatron_ipt.synthesis.prompt_tokenizer import PromptTokenizer
from megatron_ipt.synthesis.records import TextRecord

_LEAST_SHARE, _MOST_SHARE = 1 / 2, 3 / 2
_RUN_WORDS = 8
_MOST_COPIED_SHARE = 0.5


@dataclass(frozen=True)
class RephrasingPrompt:
    """What stands before a text that is to be rephrased, and the cue after it."""

    head: str
    cue: str

    def after(self, text: str) -> str:
        """The text with its cue; the rephrasing comes next."""
        return f"{render_context(text)}{self.cue}"


class Rephraser:
    """Chooses texts, asks for their rephrasings, and judges them.

    A rephrasing ends at EOS or where the next `<CON>` would begin, as pairs do.
    """

    def __init__(self, config: RephraseConfig, engine: EngineConfig, tokenizer: PromptTokenizer, seed: int) -> None:
        self._prompt = read_prompt(Path(config.prompt) if config.prompt else None)
        self._fraction, self._seed, self._tokenizer = config.fraction, seed, tokenizer
        self._max_model_len, self._max_new_tokens = engine.max_model_len, engine.max_new_tokens
        self._head = [*tokenizer.bos_ids, *tokenizer.encode(self._prompt.head)]

    def ask(self, record: TextRecord) -> list[int] | TextRecord:
        """The prompt for the text of `record`; or the record, where its text is not to be rephrased."""
        if not record.pairs or not is_augmented(f"rephrase {record.id}", self._fraction, self._seed):
            return record
        ids = [*self._head, *self._tokenizer.encode(self._prompt.after(record.text))]
        is_long = len(self._tokenizer.encode(record.text)) > self._max_new_tokens
        if is_long or len(ids) + self._max_new_tokens > self._max_model_len:
            return replace(record, rephrasing_drop="text too long")
        return ids

    def take(self, record: TextRecord, prompt_tokens: int, generation: Generation) -> TextRecord:
        """The record with the rephrasing, or with the reason why it is none."""
        rephrasing = generation.text.strip()
        reason = None if generation.failure is None else generation.failure.drop_reason
        if reason is None and generation.tokens >= self._max_new_tokens:
            reason = "unfinished"
        reason = reason or find_fault(record.text, rephrasing)
        return replace(
            record,
            rephrasing="" if reason else rephrasing,
            rephrasing_drop=reason,
            prompt_tokens=record.prompt_tokens + prompt_tokens,
            generated_tokens=record.generated_tokens + generation.tokens,
            failure=generation.failure,
        )


def find_fault(text: str, rephrasing: str) -> str | None:
    """Why `rephrasing` is no rephrasing of `text`; None where it is one."""
    words, own_words = text.casefold().split(), rephrasing.casefold().split()
    if not own_words:
        return "empty"
    if break_tags(rephrasing) != rephrasing:
        return "holds a tag"
    if len(own_words) > _MOST_SHARE * len(words):
        return "too long"
    if len(own_words) < _LEAST_SHARE * len(words):
        return "too short"
    length = min(_RUN_WORDS, len(own_words))
    known, runs = set(_runs(words, length)), _runs(own_words, length)
    return "copied" if sum(run in known for run in runs) > _MOST_COPIED_SHARE * len(runs) else None


def _runs(words: list[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]


def read_prompt(file: Path | None) -> RephrasingPrompt:
    """The prompt of a YAML file with `instruction`, `cue` and `examples`; the packaged one where none is named.

    Raises:
        UserError: the file cannot be read, or has another form.
    """
    packaged = resources.files("megatron_ipt.synthesis") / "rephrasing_prompt.yaml"
    try:
        values = yaml.safe_load((file or packaged).read_text(encoding="utf-8"))
        return _parse(values)
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        reason = f"not a prompt for rephrasings: {error}"
        remedy = "give instruction, cue and a list of examples with text and rephrasing"
        raise UserError("rephrase.prompt", file, reason, remedy) from error


def _parse(values: Mapping[str, Any]) -> RephrasingPrompt:
    if unknown := set(values) - {"instruction", "cue", "examples"}:
        raise ValueError(f"unknown field {min(unknown)}")
    cue = values["cue"].strip()
    if not cue:
        raise ValueError("the cue is empty")
    shown = "".join(f"{render_context(one['text'])}{cue} {one['rephrasing']}\n\n" for one in values["examples"])
    return RephrasingPrompt(f"{values['instruction'].strip()}\n\n{shown}", cue)
