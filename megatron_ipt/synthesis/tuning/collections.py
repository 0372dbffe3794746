"""Rows of question-answering collections, of whatever layout, as contexts with pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from megatron_ipt.config.tuning_set import CollectionConfig
from megatron_ipt.corpus.rows import BadRow, ObjectRow, expand_inputs, read_objects
from megatron_ipt.errors import UserError
from megatron_ipt.synthesis.grammar import Pair, break_tags, compose_pair

FORMATS = ("pairs", "columns", "squad")


@dataclass(frozen=True)
class Source:
    """What one row gave: pairs about a context, and the set it belongs to."""

    set: str
    context: str
    pairs: tuple[Pair, ...]


def read_collection(config: CollectionConfig, bad_input: str, report: Callable[[BadRow], None]) -> Iterator[Source]:
    """The rows of one collection.

    Raises:
        UserError: at FILE:LINE for a row of another layout under `fail`; an unknown format; a missing file.
    """
    if config.format not in FORMATS:
        raise UserError("collections.format", config.format, "no such format", f"one of {', '.join(FORMATS)}")
    files = expand_inputs(config.input)
    if config.format == "squad":
        for file in files:
            yield from _read_squad(file, config.name)
        return
    read = _from_list if config.format == "pairs" else _from_columns
    for row in read_objects(files, bad_input, report):
        try:
            name = config.name if config.set_key is None else _text(row.values, config.set_key)
            yield Source(name, _text(row.values, config.context_key), read(config, row.values))
        except (KeyError, TypeError, ValueError) as error:
            _refuse(row, error, bad_input, report)


def _from_list(config: CollectionConfig, values: Mapping[str, Any]) -> tuple[Pair, ...]:
    found = values[config.pairs_key]
    if not isinstance(found, list):
        raise TypeError(f"field {config.pairs_key!r} holds no list")
    return tuple(_pair(config, pair) for pair in found)


def _from_columns(config: CollectionConfig, values: Mapping[str, Any]) -> tuple[Pair, ...]:
    return (_pair(config, values),)


def _pair(config: CollectionConfig, values: Mapping[str, Any]) -> Pair:
    options = _options(config, values)
    reasoning = values.get(config.reasoning_key) if config.reasoning_key else None
    return compose_pair(
        break_tags(_text(values, config.question_key)),
        _answer(_text(values, config.answer_key), bool(options)),
        options,
        break_tags(str(reasoning).strip()) if reasoning else None,
    )


def _options(config: CollectionConfig, values: Mapping[str, Any]) -> list[str]:
    found = values.get(config.options_key) if config.options_key else None
    if not isinstance(found, list | None):
        raise TypeError(f"field {config.options_key!r} holds no list")
    return [_one_line(str(option)) for option in found or ()]


def _answer(answer: str, is_option: bool) -> str:
    return _one_line(answer) if is_option else break_tags(answer)


def _one_line(text: str) -> str:
    return break_tags(" ".join(text.split()))


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values[key]
    if not isinstance(value, str):
        raise TypeError(f"field {key!r} holds no text")
    return value.strip()


def _refuse(row: ObjectRow, error: Exception, bad_input: str, report: Callable[[BadRow], None]) -> None:
    fields = ", ".join(map(repr, row.values))
    reason = f"no field {error}; it has {fields}" if isinstance(error, KeyError) else str(error)
    bad = BadRow(row.file, row.line, reason)
    if bad_input == "fail":
        raise UserError(bad.place, "(bad row)", reason, "name the fields of the collection, or bad_input=skip")
    report(bad)


def _read_squad(file: Path, name: str) -> Iterator[Source]:
    try:
        for article in orjson.loads(file.read_bytes())["data"]:
            for paragraph in article["paragraphs"]:
                asked = [(one["question"], one["answers"]) for one in paragraph["qas"]]
                pairs = (_squad_pair(question, found[0]["text"]) for question, found in asked if found)
                yield Source(name, paragraph["context"].strip(), tuple(pairs))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(str(file), "(bad file)", f"not of SQuAD's layout: {error!r}", "give its JSON file") from error


def _squad_pair(question: str, answer: str) -> Pair:
    return compose_pair(break_tags(question.strip()), break_tags(answer.strip()))
