"""Rows that several reports share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_ipt.corpus.lineage import LineageStep
from megatron_ipt.stages import title_of

_MAX_FILES_SHOWN = 6


@dataclass(frozen=True)
class Tile:
    """A headline number: its name, its value as text, and a note that puts it into context."""

    name: str
    value: str
    note: str = ""


def show_score(value: float, *, is_share: bool) -> str:
    """Format a score for tables, in percent if it is a share from 0 to 1."""
    return f"{100 * value:.1f}" if is_share else f"{value:.4g}"


def show_stderr(stderr: float | None, *, is_share: bool) -> str:
    """Format the standard error of a score for tables; empty if there is none."""
    if stderr is None:
        return ""
    return f"{100 * stderr:.1f}" if is_share else f"{stderr:.2g}"


@dataclass(frozen=True)
class SourceFile:
    """An input that no stage produced, with the first digits of its SHA-256."""

    name: str
    digest: str


@dataclass(frozen=True)
class LineageRow:
    """One stage in the lineage of a result."""

    title: str
    folder: str
    seed: int | None
    counts: Mapping[str, int | float | str]
    sources: Sequence[SourceFile]
    more_sources: int


def lineage_rows(steps: Iterable[LineageStep]) -> list[LineageRow]:
    """Describe the steps of a lineage, in order, each with its first few source files.

    A checkpoint has its own manifest. If both it and its run are in the lineage, only the checkpoint is described.
    """
    found = list(steps)
    described = [step for step in found if not any(_is_part(other, step) for other in found)]
    return [
        LineageRow(
            title=title_of(step.manifest.stage)
            + (f": new stage of training from {step.started_from}" if step.started_from else ""),
            folder=str(step.folder),
            seed=step.manifest.seed,
            counts={
                key.replace("_", " "): count
                for key, count in step.manifest.counts.items()
                if isinstance(count, int | float | str)
            },
            sources=[
                SourceFile(Path(record.path).name, record.sha256[:12]) for record in step.sources[:_MAX_FILES_SHOWN]
            ],
            more_sources=max(0, len(step.sources) - _MAX_FILES_SHOWN),
        )
        for step in described
    ]


def _is_part(step: LineageStep, whole: LineageStep) -> bool:
    return step.manifest.stage == whole.manifest.stage and whole.folder in step.folder.parents
