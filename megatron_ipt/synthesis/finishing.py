"""Finished parts of one input file, gated and rendered, into its file of the corpus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from megatron_ipt.config.synthesis import SynthesizeConfig
from megatron_ipt.corpus.decontamination.decontaminator import Decontaminator
from megatron_ipt.synthesis.counts import Counts
from megatron_ipt.synthesis.gates.chain import PairGates
from megatron_ipt.synthesis.gates.near_duplicates import REASON as NEAR_DUPLICATE
from megatron_ipt.synthesis.parts import Workspace
from megatron_ipt.synthesis.quality.report import QualityReport
from megatron_ipt.synthesis.records import ChainRecord, TextRecord
from megatron_ipt.synthesis.rendering.renderer import Rendered, Renderer
from megatron_ipt.system_errors import naming

_CONTAMINATED = "holds a question of an evaluation set"
DOCUMENTS_NAME = "augmented"
PAIRS_NAME = "pairs"


@dataclass
class Finished:
    """What finishing one input file counted and found."""

    report: QualityReport
    counts: Counts = field(default_factory=Counts)
    contaminated: list[dict[str, Any]] = field(default_factory=list)


class Finisher:
    """Gates the pairs, then renders the chains; the engine is no longer needed."""

    def __init__(self, config: SynthesizeConfig, decontaminator: Decontaminator | None) -> None:
        self._gates = PairGates(config.gates)
        self._renderer = Renderer(config.render, config.seed)
        self._decontaminator, self._seed = decontaminator, config.seed

    def finish(self, workspace: Workspace, file_number: int, near_duplicates: Iterator[bool] | None) -> Finished:
        """Write the documents and the pairs of one input file, each in one piece.

        `near_duplicates` tells of each pair that passes the gates, in order, whether it resembles an earlier one.
        """
        finished = Finished(QualityReport(self._seed))
        files = [corpus_file(workspace.folder, name, file_number) for name in (DOCUMENTS_NAME, PAIRS_NAME)]
        temporary = [file.with_name(f".{file.name}.tmp") for file in files]
        with naming(files[0]), temporary[0].open("wb") as documents, temporary[1].open("wb") as pairs:
            for record in workspace.read_records(file_number):
                gated = replace(
                    record, texts=tuple(self._gate(text, near_duplicates, finished) for text in record.texts)
                )
                rendered = self._renderer.render(gated)
                finished.counts.add(Counts.of([gated]))
                finished.report.add(gated, rendered.mode)
                documents.write(_line(_document(gated, rendered)))
                pairs.writelines(map(_line, _pair_rows(gated)))
        for written, file in zip(temporary, files, strict=True):
            written.replace(file)
        return finished

    def _gate(self, text: TextRecord, near_duplicates: Iterator[bool] | None, finished: Finished) -> TextRecord:
        text = self._gates.filter(text)
        if near_duplicates is not None:
            for pair in [pair for pair in text.pairs if next(near_duplicates)]:
                text = text.drop(pair, NEAR_DUPLICATE)
        if self._decontaminator is None:
            return text
        for pair in text.pairs:
            if (hit := self._decontaminator.find_in_pair(pair.stem, pair.answer)) is not None:
                finished.contaminated.append({"id": text.id, "where": "pair", **asdict(hit)})
                text = text.drop(pair, _CONTAMINATED)
        if text.rephrasing and (hit := self._decontaminator.find(text.rephrasing)) is not None:
            finished.contaminated.append({"id": text.id, "where": "rephrasing", **asdict(hit)})
            text = replace(text, rephrasing="", rephrasing_drop=_CONTAMINATED)
        return text


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
    return {**row, "mode": rendered.mode, "format": rendered.format, "template": rendered.template} if pairs else row


def _pair_rows(record: ChainRecord) -> Iterator[dict[str, Any]]:
    for text in record.texts:
        if text.pairs or text.dropped or text.failure:
            row: dict[str, Any] = {"id": text.id, "pairs": [asdict(pair) for pair in text.pairs]}
            row |= {"dropped": [asdict(dropped) for dropped in text.dropped]} if text.dropped else {}
            row |= {"refused": text.failure.reason} if text.failure else {}
            yield row | ({"rephrasing": text.rephrasing} if text.rephrasing else {})
