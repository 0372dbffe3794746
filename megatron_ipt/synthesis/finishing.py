"""Finished parts of one input file, rendered, into its file of the corpus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from megatron_ipt.synthesis.counts import Counts
from megatron_ipt.synthesis.parts import Workspace
from megatron_ipt.synthesis.quality.report import QualityReport
from megatron_ipt.synthesis.records import ChainRecord
from megatron_ipt.synthesis.templates import load_template

DOCUMENTS_NAME = "augmented"
PAIRS_NAME = "pairs"


def finish_file(workspace: Workspace, file_number: int, seed: int) -> tuple[Counts, QualityReport]:
    """Write the documents and the pairs of one input file, each in one piece; returns what was counted."""
    template, counts, report = load_template("plain"), Counts(), QualityReport(seed)
    files = [corpus_file(workspace.folder, name, file_number) for name in (DOCUMENTS_NAME, PAIRS_NAME)]
    temporary = [file.with_name(f".{file.name}.tmp") for file in files]
    with temporary[0].open("wb") as documents, temporary[1].open("wb") as pairs:
        for record in workspace.read_records(file_number):
            counts.add(Counts.of([record]))
            report.add(record, "classic" if any(text.pairs for text in record.texts) else "raw")
            documents.write(_line(_document(record, template.render([text.example for text in record.texts]))))
            pairs.writelines(map(_line, _pair_rows(record)))
    for written, file in zip(temporary, files, strict=True):
        written.replace(file)
    return counts, report


def corpus_file(folder: Path, name: str, file_number: int) -> Path:
    """The file of the corpus that holds what became of an input file."""
    return folder / f"{name}-{file_number:05d}.jsonl"


def _line(row: dict[str, Any]) -> bytes:
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _document(record: ChainRecord, text: str) -> dict[str, Any]:
    pairs = sum(len(text.pairs) for text in record.texts)
    return {
        "id": record.id,
        "text": text,
        "kind": "augmented" if pairs else "raw",
        "sources": [text.id for text in record.texts],
        "pairs": pairs,
    }


def _pair_rows(record: ChainRecord) -> Iterator[dict[str, Any]]:
    for text in record.texts:
        if text.pairs:
            yield {"id": text.id, "pairs": [asdict(pair) for pair in text.pairs]}
