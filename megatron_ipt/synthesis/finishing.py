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
from megatron_ipt.synthesis.rendering.renderer import Rendered, Renderer

DOCUMENTS_NAME = "augmented"
PAIRS_NAME = "pairs"


def finish_file(workspace: Workspace, file_number: int, renderer: Renderer, seed: int) -> tuple[Counts, QualityReport]:
    """Write the documents and the pairs of one input file, each in one piece; returns what was counted."""
    counts, report = Counts(), QualityReport(seed)
    files = [corpus_file(workspace.folder, name, file_number) for name in (DOCUMENTS_NAME, PAIRS_NAME)]
    temporary = [file.with_name(f".{file.name}.tmp") for file in files]
    with temporary[0].open("wb") as documents, temporary[1].open("wb") as pairs:
        for record in workspace.read_records(file_number):
            counts.add(Counts.of([record]))
            rendered = renderer.render(record)
            report.add(record, rendered.mode)
            documents.write(_line(_document(record, rendered)))
            pairs.writelines(map(_line, _pair_rows(record)))
    for written, file in zip(temporary, files, strict=True):
        written.replace(file)
    return counts, report


def corpus_file(folder: Path, name: str, file_number: int) -> Path:
    """The file of the corpus that holds what became of an input file."""
    return folder / f"{name}-{file_number:05d}.jsonl"


def _line(row: dict[str, Any]) -> bytes:
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _document(record: ChainRecord, rendered: Rendered) -> dict[str, Any]:
    pairs = sum(len(text.pairs) for text in record.texts)
    row: dict[str, Any] = {
        "id": record.id,
        "text": rendered.text,
        "kind": "augmented" if pairs else "raw",
        "sources": [text.id for text in record.texts],
        "pairs": pairs,
    }
    return {**row, "mode": rendered.mode, "template": rendered.template} if pairs else row


def _pair_rows(record: ChainRecord) -> Iterator[dict[str, Any]]:
    for text in record.texts:
        if text.pairs:
            yield {"id": text.id, "pairs": [asdict(pair) for pair in text.pairs]}
