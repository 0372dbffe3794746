"""The last step of a synthesis: filters and renders the parts of one input file into its corpus files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import orjson

from megatron_ipt.config.synthesis import SynthesizeConfig
from megatron_ipt.corpus.decontamination.decontaminator import Decontaminator
from megatron_ipt.corpus.manifest import JsonObject
from megatron_ipt.synthesis.counts import Counts
from megatron_ipt.synthesis.filtering.chain import PairGates
from megatron_ipt.synthesis.filtering.near_duplicates import REASON as NEAR_DUPLICATE
from megatron_ipt.synthesis.generation.parts import Workspace
from megatron_ipt.synthesis.quality.report import QualityReport
from megatron_ipt.synthesis.records import ChainRecord, TextRecord
from megatron_ipt.synthesis.rendering.renderer import Rendered, Renderer
from megatron_ipt.system_errors import naming

_CONTAMINATED = "holds a question of an evaluation set"
DOCUMENTS_NAME = "augmented"
PAIRS_NAME = "pairs"


@dataclass
class FinishedFile:
    """The counts, the quality report and the contaminated texts and pairs of one input file."""

    report: QualityReport
    counts: Counts = field(default_factory=Counts)
    contaminated: list[JsonObject] = field(default_factory=list)


class Finisher:
    """Filters the pairs and renders the chains, without an engine."""

    def __init__(self, config: SynthesizeConfig, decontaminator: Decontaminator | None) -> None:
        self._gates = PairGates(config.gates)
        self._renderer = Renderer(config.render, config.seed)
        self._decontaminator, self._seed = decontaminator, config.seed

    def finish(self, workspace: Workspace, file_number: int, near_duplicates: Iterator[bool] | None) -> FinishedFile:
        """Write the documents and the pairs of one input file, each file atomically.

        Args:
            workspace: the parts of the file.
            file_number: the index of the input file.
            near_duplicates: for each pair that passes the gates, in order, whether it resembles an earlier one; None if
                near-duplicates are kept.
        """
        finished = FinishedFile(QualityReport(self._seed))
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

    def _gate(self, text: TextRecord, near_duplicates: Iterator[bool] | None, finished: FinishedFile) -> TextRecord:
        text = self._gates.filter(text)
        if near_duplicates is not None:
            # the list is complete before a pair is dropped: one flag is consumed for each pair that passed the gates
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
    """Return the file of the corpus that input file `file_number` is rendered to."""
    return folder / f"{name}-{file_number:05d}.jsonl"


def _line(row: Mapping[str, object]) -> bytes:
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _document(record: ChainRecord, rendered: Rendered) -> dict[str, object]:
    pairs = sum(len(text.pairs) for text in record.texts)
    row: dict[str, object] = {
        "id": record.id,
        "text": rendered.text,
        "kind": "augmented" if pairs else "raw",
        "sources": [text.id for text in record.texts],
        "pairs": pairs,
    }
    return {**row, "mode": rendered.mode, "format": rendered.format, "template": rendered.template} if pairs else row


def _pair_rows(record: ChainRecord) -> Iterator[dict[str, object]]:
    for text in record.texts:
        if text.pairs or text.dropped or text.failure:
            row: dict[str, object] = {"id": text.id, "pairs": [asdict(pair) for pair in text.pairs]}
            row |= {"dropped": [asdict(dropped) for dropped in text.dropped]} if text.dropped else {}
            row |= {"refused": text.failure.reason} if text.failure else {}
            yield row | ({"rephrasing": text.rephrasing} if text.rephrasing else {})
