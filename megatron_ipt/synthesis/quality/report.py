"""The quality report of a corpus: gathered while the corpus is written, in one place or in several that are merged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from megatron_ipt.corpus.manifest import write_atomically
from megatron_ipt.reporting.quality import render_quality
from megatron_ipt.synthesis.quality.samples import Samples
from megatron_ipt.synthesis.quality.summary import summarize
from megatron_ipt.synthesis.quality.tallies import Tallies
from megatron_ipt.synthesis.records import ChainRecord

REPORT_NAMES = ("report.json", "report.html")


class QualityReport:
    """Counts everything and keeps samples chosen by hash; memory does not grow with the corpus.

    Reports of parts of a corpus, merged in any order, write the same bytes as one report of the whole.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._tallies = Tallies()
        self._samples = Samples(seed)

    def add(self, record: ChainRecord, mode: str) -> None:
        """Add a document of the corpus, which is rendered in `mode`."""
        self._tallies.count(record, mode)
        if record.augmented:
            for text in record.texts:
                self._samples.add(text, mode)

    def add_contamination(self, evaluation_set: str, where: str) -> None:
        """Count a text or a pair (`where`) that was left out because it contains a question of an evaluation set."""
        assert where in ("text", "pair"), where
        self._tallies.contamination[f"{where}|{evaluation_set}"] += 1

    def merge(self, other: QualityReport) -> None:
        """Add the report of another part of the corpus, made with the same seed."""
        assert self._seed == other._seed
        self._tallies.merge(other._tallies)
        self._samples.merge(other._samples)

    def to_row(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"seed": self._seed, "tallies": self._tallies.to_row(), "samples": self._samples.to_row()}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> QualityReport:
        """Restore the result of `to_row`."""
        report = cls(row["seed"])
        report._tallies = Tallies.from_row(row["tallies"])
        report._samples = Samples.from_row(row["seed"], row["samples"])
        return report

    def write(self, folder: Path) -> list[Path]:
        """Write report.json and report.html; neither holds a time, so the same corpus gives the same bytes."""
        metrics = summarize(self._tallies, self._samples, self._seed)
        contents = (orjson.dumps(metrics, option=orjson.OPT_INDENT_2).decode() + "\n", render_quality(metrics))
        files = [folder / name for name in REPORT_NAMES]
        for file, content in zip(files, contents, strict=True):
            write_atomically(file, content)
        return files
