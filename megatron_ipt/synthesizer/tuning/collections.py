"""Reads question-answering collections of various layouts as contexts with pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from megatron_ipt.config.tuning_set import CollectionConfig
from megatron_ipt.corpus.rows import BadRow, ObjectRow, expand_inputs, read_objects, refuse_or_report
from megatron_ipt.errors import UserError
from megatron_ipt.pairs.grammar import Pair, compose_pair, escape_tags

_KEYS = ("context_key", "pairs_key", "question_key", "answer_key")


@dataclass(frozen=True)
class SourceRow:
    """The pairs about a context in one row, and the set that it belongs to."""

    set: str
    context: str
    pairs: tuple[Pair, ...]


def read_collection(config: CollectionConfig, bad_input: str, report: Callable[[BadRow], None]) -> Iterator[SourceRow]:
    """Read the rows of one collection.

    Args:
        config: its files, layout and field names.
        bad_input: `fail`, or `skip` to pass each bad row to `report` and continue.
        report: called with each bad row that is skipped.

    Raises:
        UserError: under `fail`, at FILE:LINE, a row with another layout; under `skip`, not a single row with the
            layout; under both, a missing or damaged file.
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
            source = SourceRow(name, context, read(config, row.values))
        except (KeyError, TypeError, ValueError) as error:
            any_bad = True
            _refuse(row, error, bad_input, report)
        else:
            any_good = True
            yield source
    if any_bad and not any_good:
        reason = "none of its rows has the layout that its settings describe"
        raise UserError("collections.name", config.name, reason, f"name its fields in {', '.join(_KEYS)}")


def _from_list(config: CollectionConfig, values: object) -> tuple[Pair, ...]:
    found = _find(values, config.pairs_key)
    if not isinstance(found, list):
        raise TypeError(f"field {config.pairs_key!r} is not a list")
    return tuple(pair for one in found for pair in _from_columns(config, one))


def _from_columns(config: CollectionConfig, values: object) -> tuple[Pair, ...]:
    """Read one pair, or one per question of a list; a question with an empty list of answers is left out."""
    questions, answers = _find(values, config.question_key), _find(values, config.answer_key)
    if not isinstance(questions, list):
        questions, answers = [questions], [answers]
    elif not isinstance(answers, list) or len(answers) != len(questions):
        raise ValueError(f"fields {config.question_key!r} and {config.answer_key!r} are not lists of equal length")
    return tuple(_pair(config, values, *one) for one in zip(questions, answers, strict=True) if one[1] != [])


def _pair(config: CollectionConfig, values: object, question: object, answer: object) -> Pair:
    options = _options(config, values)
    escape = _one_line if options else escape_tags  # an answer must equal its option, which is one line
    reasoning = _find(values, config.reasoning_key) if config.reasoning_key else None
    return compose_pair(
        escape_tags(_text(question, config.question_key)),
        escape(_text(answer[0] if isinstance(answer, list) else answer, config.answer_key)),
        options,
        escape_tags(str(reasoning).strip()) if reasoning else None,
    )


def _options(config: CollectionConfig, values: object) -> list[str]:
    found = _find(values, config.options_key) if config.options_key else None
    if not isinstance(found, list | None):
        raise TypeError(f"field {config.options_key!r} is not a list")
    return [_one_line(str(option)) for option in found or ()]


def _find(values: object, key: str) -> object:
    """Return the value under `key`, or under `outer.inner` in a nested object; for a list of objects, that of each."""
    if isinstance(values, list):
        return [_find(one, key) for one in values]
    if not isinstance(values, Mapping):
        raise TypeError(f"field {key!r} is not within an object")
    outer, _, inner = key.partition(".")
    return values[key] if key in values or not inner else _find(values[outer], inner)


def _one_line(text: str) -> str:
    return escape_tags(" ".join(text.split()))


def _text(value: object, key: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"field {key!r} is not text")
    return value.strip()


def _refuse(row: ObjectRow, error: Exception, bad_input: str, report: Callable[[BadRow], None]) -> None:
    fields = ", ".join(map(repr, row.values))
    reason = f"no field {error}; it has {fields}" if isinstance(error, KeyError) else str(error)
    remedy = f"name its fields in the collection's {', '.join(_KEYS)}"
    refuse_or_report(BadRow(row.file, row.line, reason), bad_input, report, remedy)


def _read_squad(file: Path, name: str) -> Iterator[SourceRow]:
    try:
        for article in orjson.loads(file.read_bytes())["data"]:
            for paragraph in article["paragraphs"]:
                questions = [(one["question"], one["answers"]) for one in paragraph["qas"]]
                pairs = tuple(
                    compose_pair(escape_tags(question.strip()), escape_tags(answers[0]["text"].strip()))
                    for question, answers in questions
                    if answers  # SQuAD 2.0 has questions without an answer
                )
                yield SourceRow(name, paragraph["context"].strip(), pairs)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        remedy = "give a JSON file of SQuAD, or another format"
        raise UserError(str(file), "(bad file)", f"not in the layout of SQuAD: {error!r}", remedy) from error
