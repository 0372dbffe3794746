"""The chain of manifests from a result back to the raw text it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megatron_ipt.corpus.manifest import (
    MANIFEST_NAME,
    FileRecord,
    Manifest,
    dataset_manifest_name,
    find_producer,
    read_manifest,
)

STARTED_FROM = "started_from"
"""Key in the settings of a manifest: the state, beyond weights, that a training run started from."""


@dataclass(frozen=True)
class LineageStep:
    """One stage of the chain.

    `parents` are the manifests of the stages whose outputs it read, `sources` its inputs that no stage produced.
    """

    manifest_file: Path
    manifest: Manifest
    parents: list[Path]
    sources: list[FileRecord]

    @property
    def folder(self) -> Path:
        """The folder that paths in the manifest are relative to."""
        return self.manifest_file.parent

    @property
    def started_from(self) -> str:
        """Description of the state that a new stage of training took from another run; empty for other steps."""
        return str(self.manifest.config.get(STARTED_FROM, ""))

    @property
    def result(self) -> Path:
        """The path of the stage's result: a folder, or the prefix of a dataset."""
        return result_path(self.manifest_file)


def result_path(manifest_file: Path) -> Path:
    """Return the path that the manifest describes: its folder, or the prefix of the dataset that it is named after."""
    dataset = manifest_file.name.removesuffix(MANIFEST_NAME).removesuffix(".")
    return manifest_file.parent / dataset


def find_manifests(path: Path) -> list[tuple[Path, Manifest]]:
    """Read the manifests at `path`, with their files: a dataset's by its prefix, or all in a folder."""
    in_folder = sorted(path.glob(f"*.{MANIFEST_NAME}")) if path.is_dir() else []
    files = [path / MANIFEST_NAME, *in_folder, path.parent / dataset_manifest_name(path.name)]
    found = ((file, read_manifest(file.parent, file.name)) for file in files)
    return [(file, manifest) for file, manifest in found if manifest is not None]


def trace_lineage(folder: Path, manifest: Manifest, name: str = MANIFEST_NAME) -> list[LineageStep]:
    """Follow `manifest`, the file `name` in `folder`, back through its inputs: itself first, each stage once.

    The order is breadth-first, so that nearer stages precede those behind them.
    """
    steps: dict[Path, LineageStep] = {}
    waiting = [(folder.resolve() / name, manifest)]
    while waiting:
        file, current = waiting.pop(0)
        if file in steps:
            continue
        producers = {record.path: find_producer((file.parent / record.path).resolve()) for record in current.inputs}
        sources = [record for record in current.inputs if producers[record.path] is None]
        parents = dict(producer for producer in producers.values() if producer is not None)
        steps[file] = LineageStep(file, current, list(parents), sources)
        waiting += parents.items()
    return list(steps.values())
