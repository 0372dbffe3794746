"""The chain of manifests from a result back to the raw text behind it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from megatron_ipt.corpus.manifest import FileRecord, Manifest, maker_of


@dataclass(frozen=True)
class LineageStep:
    """One stage of the chain; `sources` are those of its inputs that no stage made."""

    folder: Path
    manifest: Manifest
    sources: list[FileRecord]


def trace_lineage(folder: Path, manifest: Manifest) -> list[LineageStep]:
    """The stages behind `manifest` of `folder`, itself first; every folder once, nearest first."""
    steps: dict[Path, LineageStep] = {}
    waiting = [(folder.resolve(), manifest)]
    while waiting:
        place, made = waiting.pop(0)
        if place in steps:
            continue
        makers = {record.path: maker_of((place / record.path).resolve()) for record in made.inputs}
        steps[place] = LineageStep(place, made, [record for record in made.inputs if makers[record.path] is None])
        waiting += _distinct(maker for maker in makers.values() if maker is not None)
    return list(steps.values())


def _distinct(makers: Iterable[tuple[Path, Manifest]]) -> list[tuple[Path, Manifest]]:
    return list(dict(makers).items())
