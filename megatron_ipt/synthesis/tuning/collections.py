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

_KEYS = ("context_key", "pairs_key", "question_key", "answer_key")
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
        UserError: at FILE:LINE for a row of another layout under `fail`; no row of the layout under `skip`; a
            missing or damaged file.
    """
    files = expand_inputs(config.input)
    if config.format == "squad":
        for file in files:
            yield from _read_squad(file, config.name)
        return
    read = _from_list if config.format == "pairs" else _from_columns
    any_good, any_bad = False, False
    for row in read_objects(files, bad_input, report):
        try:
            name = config.name if config.set_key is None else _text(_find(row.values, config.set_key), config.set_key)
            context = _text(_find(row.values, config.context_key), config.context_key)
            source = Source(name, context, read(config, row.values))
        except (KeyError, TypeError, ValueError) as error:
            any_bad = True
            _refuse(row, error, bad_input, report)
        else:
            any_good = True
            yield source
    if any_bad and not any_good:
        reason = "not one of its rows is of the layout that its settings describe"
        raise UserError("collections.name", config.name, reason, f"name its fields in {', '.join(_KEYS)}")


def _from_list(config: CollectionConfig, values: Mapping[str, Any]) -> tuple[Pair, ...]:
    found = _find(values, config.pairs_key)
    if not isinstance(found, list):
        raise TypeError(f"field {config.pairs_key!r} holds no list")
    return tuple(pair for one in found for pair in _from_columns(config, one))


def _from_columns(config: CollectionConfig, values: Mapping[str, Any]) -> tuple[Pair, ...]:
    """One pair, or one for each question of a list; a question whose list of answers is empty is left out."""
    questions, answers = _find(values, config.question_key), _find(values, config.answer_key)
    if not isinstance(questions, list):
        questions, answers = [questions], [answers]
    elif not isinstance(answers, list) or len(answers) != len(questions):
        raise ValueError(f"fields {config.question_key!r} and {config.answer_key!r} hold lists of different lengths")
    return tuple(_pair(config, values, *one) for one in zip(questions, answers, strict=True) if one[1] != [])


def _pair(config: CollectionConfig, values: Mapping[str, Any], question: Any, answer: Any) -> Pair:
    options = _options(config, values)
    reasoning = _find(values, config.reasoning_key) if config.reasoning_key else None
    return compose_pair(
        break_tags(_text(question, config.question_key)),
        _answer(_text(answer[0] if isinstance(answer, list) else answer, config.answer_key), bool(options)),
        options,
        break_tags(str(reasoning).strip()) if reasoning else None,
    )


def _options(config: CollectionConfig, values: Mapping[str, Any]) -> list[str]:
    found = _find(values, config.options_key) if config.options_key else None
    if not isinstance(found, list | None):
        raise TypeError(f"field {config.options_key!r} holds no list")
    return [_one_line(str(option)) for option in found or ()]


def _find(values: Any, key: str) -> Any:
    """What stands under `key`, or under `outer.inner` within it; of a list of objects, that of each."""
    if isinstance(values, list):
        return [_find(one, key) for one in values]
    if not isinstance(values, Mapping):
        raise TypeError(f"no object holds {key!r}")
    outer, _, inner = key.partition(".")
    return values[key] if key in values or not inner else _find(values[outer], inner)


def _answer(answer: str, is_option: bool) -> str:
    return _one_line(answer) if is_option else break_tags(answer)


def _one_line(text: str) -> str:
    return break_tags(" ".join(text.split()))


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"field {key!r} holds no text")
    return value.strip()


def _refuse(row: ObjectRow, error: Exception, bad_input: str, report: Callable[[BadRow], None]) -> None:
    fields = ", ".join(map(repr, row.values))
    reason = f"no field {error}; it has {fields}" if isinstance(error, KeyError) else str(error)
    bad = BadRow(row.file, row.line, reason)
    if bad_input == "fail":
        remedy = f"name its fields in the collection's {', '.join(_KEYS)}; or bad_input=skip"
        raise UserError(bad.location, "(bad row)", reason, remedy)
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
