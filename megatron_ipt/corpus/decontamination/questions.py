"""The questions of evaluation sets, in the tasks' own fields."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.corpus.rows import ObjectRow, read_objects
from megatron_ipt.errors import UserError

QUESTION_FIELDS = ("question", "question_stem", "goal", "ctx", "sentence", "stem", "problem", "prompt", "query")
_OPTION_FIELD = re.compile(r"(?:sol|option|answer)_?[1-9A-E]|endings|choices|options")
_BRACKETED = re.compile(r"\[[^]]*\]")
_BLANK = re.compile(r"_+")


@dataclass(frozen=True)
class EvalQuestion:
    """One row of an evaluation set: the wordings in which its question may occur, and its options."""

    file: Path
    row: str
    wordings: tuple[str, ...]
    options: tuple[str, ...]


def name_set(file: Path) -> str:
    """Return the name of an evaluation set: TASK.SPLIT for TASK.SPLIT.jsonl.gz."""
    return re.sub(r"\.(?:jsonl|json|parquet)(?:\.\w+)?$", "", file.name)


def read_questions(files: Sequence[Path]) -> Iterator[EvalQuestion]:
    """Yield the questions of `files`, JSONL (.gz, .zst) or parquet. A row is named by its `id`, else by its line.

    Raises:
        UserError: a row that cannot be read or that holds no question under any known field.
    """
    for row in read_objects(files):
        wordings = tuple(dict.fromkeys(text for text in _wordings(row.values) if text.strip()))
        if not wordings:
            raise _no_question(row)
        name = row.values.get("id", row.line)
        yield EvalQuestion(row.file, str(name), wordings, tuple(_options(row.values)))


def _wordings(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the question as it is, and as tasks render it.

    Social IQa asks about a short context, which is part of the question; the passage of other tasks (BoolQ, SQuAD) is
    a text of its own, not a question. HellaSwag's marks in brackets are left out, and a blank (WinoGrande) is filled.
    """
    for field in QUESTION_FIELDS:
        value = row.get(field)
        text = value.get("stem") if isinstance(value, Mapping) else value
        if not isinstance(text, str):
            continue
        yield text
        if field == "ctx":
            yield _BRACKETED.sub(" ", text)
        if field == "sentence":
            yield from (option.join(_BLANK.split(text)) for option in _options(row))
        if field == "question" and "answerA" in row and isinstance(context := row.get("context"), str):
            yield f"{context} {text}"
            yield context


def _options(row: Mapping[str, Any]) -> Iterator[str]:
    for field, value in row.items():
        if _OPTION_FIELD.fullmatch(field):
            yield from _texts(value)
        elif field == "question" and isinstance(value, Mapping):
            yield from _texts(value.get("choices"))


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in `["a", "b"]`, `{"text": ["a", "b"]}`, `[{"text": "a"}, {"text": "b"}]` or `"a"`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(value.get("text"))
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def _no_question(row: ObjectRow) -> UserError:
    return UserError(
        f"decontamination.eval_files {row.file}:{row.line}",
        ", ".join(map(str, row.values)) or "(no fields)",
        "none of these fields holds a question",
        f"rename the one that does to one of: {', '.join(QUESTION_FIELDS)}",
    )
