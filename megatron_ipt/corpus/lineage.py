"""The chain of manifests from a result back to the raw text behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megatron_ipt.corpus.manifest import (
    MANIFEST_NAME,
    FileRecord,
    Manifest,
    dataset_manifest_name,
    maker_of,
    read_manifest,
)


@dataclass(frozen=True)
class LineageStep:
    """One stage of the chain.

    `made_from` are the manifests of the stages whose outputs it read, `sources` its inputs that no stage made.
    """

    manifest_file: Path
    manifest: Manifest
    made_from: list[Path]
    sources: list[FileRecord]

    @property
    def folder(self) -> Path:
        """The folder that paths in the manifest are relative to."""
        return self.manifest_file.parent

    @property
    def place(self) -> Path:
        """The result of the stage: a folder, or the prefix of a dataset."""
        return place_of(self.manifest_file)


def place_of(manifest_file: Path) -> Path:
    """What the manifest describes: its folder, or the prefix of the dataset that it lies beside."""
    dataset = manifest_file.name.removesuffix(MANIFEST_NAME).removesuffix(".")
    return manifest_file.parent / dataset


def find_manifests(path: Path) -> list[tuple[Path, Manifest]]:
    """The manifests that `path` names, with their files: a dataset's by its prefix, or all that lie in a folder."""
    names = sorted(path.glob(f"*.{MANIFEST_NAME}")) if path.is_dir() else []
    files = [path / MANIFEST_NAME, *names, path.parent / dataset_manifest_name(path.name)]
    found = ((file, read_manifest(file.parent, file.name)) for file in files)
    return [(file, manifest) for file, manifest in found if manifest is not None]


def trace_lineage(folder: Path, manifest: Manifest, name: str = MANIFEST_NAME) -> list[LineageStep]:
    """The stages behind `manifest`, which is `name` in `folder`, itself first; every one once, nearest first."""
    steps: dict[Path, LineageStep] = {}
    waiting = [(folder.resolve() / name, manifest)]
    while waiting:
        file, made = waiting.pop(0)
        if file in steps:
            continue
        makers = {record.path: maker_of((file.parent / record.path).resolve()) for record in made.inputs}
        sources = [record for record in made.inputs if makers[record.path] is None]
        behind = dict(maker for maker in makers.values() if maker is not None)
        steps[file] = LineageStep(file, made, list(behind), sources)
        waiting += behind.items()
    return list(steps.values())
