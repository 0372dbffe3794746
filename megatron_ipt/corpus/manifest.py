"""What a stage read and made, so that every result can be followed back to the raw text.

A folder that a stage made holds a `manifest.json`. Inputs are named by content hash; an input that another stage
made is checked against that stage's manifest, which gives the chain. Manifests hold no clock times: the same seed
and the same input give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from megatron_ipt.errors import UserError

MANIFEST_NAME = "manifest.json"
_VERSIONED_PACKAGES = (
    "megatron-ipt",
    "gigatoken",
    "lm_eval",
    "megatron-core",
    "tokenizers",
    "torch",
    "transformers",
)


@dataclass(frozen=True)
class FileRecord:
    """One file: path relative to the manifest's folder, size, and content hash."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What one stage read and made; `status` is running until the stage has finished."""

    stage: str
    status: str
    config: dict[str, Any]
    seed: int | None = None
    inputs: list[FileRecord] = field(default_factory=list)
    outputs: list[FileRecord] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def difference(self, other: Manifest) -> str | None:
        """The first thing in which two runs of a stage are not the same run; None when they are."""
        if self.stage != other.stage:
            return f"stage: {other.stage} there, {self.stage} now"
        for key in sorted({*self.config, *other.config}):
            if self.config.get(key) != other.config.get(key):
                return f"{key}: {other.config.get(key)!r} there, {self.config.get(key)!r} now"
        mine, theirs = ({(record.path, record.sha256) for record in m.inputs} for m in (self, other))
        if mine != theirs:
            return f"input {min(mine ^ theirs)[0]} is not what it was then"
        return None


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of `folder`, or None when no stage made it (another program's manifest.json counts as none)."""
    file = folder / MANIFEST_NAME
    if not file.is_file():
        return None
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if "stage" not in values:
            return None
        records = {name: [FileRecord(**record) for record in values.pop(name)] for name in ("inputs", "outputs")}
        return Manifest(**{**values, **records})
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(str(file), "(damaged)", f"not a manifest: {error}", "make that folder again") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` atomically: a reader sees the former one or this one."""
    write_atomically(folder / MANIFEST_NAME, json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n")


def write_atomically(file: Path, text: str) -> None:
    """Write `text` beside `file`, bring it to the disk, then rename it into place."""
    temporary = file.with_name(f".{file.name}.tmp")
    with temporary.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(file)


def maker_of(file: Path) -> tuple[Path, Manifest] | None:
    """The nearest folder above `file` that a stage made, with its manifest; None for raw input."""
    for folder in file.absolute().parents:
        if (manifest := read_manifest(folder)) is not None:
            return folder, manifest
    return None


def record_file(file: Path, folder: Path) -> FileRecord:
    """Size and SHA-256 of `file`, named relative to `folder`."""
    with file.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256") if hasattr(hashlib, "file_digest") else _digest(handle)
    return FileRecord(os.path.relpath(file, folder), file.stat().st_size, digest.hexdigest())


def _digest(handle: Any) -> Any:  # Python 3.10 has no hashlib.file_digest
    digest = hashlib.sha256()
    while block := handle.read(1 << 20):
        digest.update(block)
    return digest


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what a stage writes."""
    versions = {"python": platform.python_version()}
    for package in _VERSIONED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


class Stage:
    """One stage's output folder: refuses what is not its own, knows what is done, writes the manifest.

    Use: construct it, leave if `is_complete`, else `start()`, do the work, `finish(...)`.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        config: Mapping[str, Any],
        inputs: Iterable[Path],
        seed: int | None = None,
        trusts_manifests: bool = False,
    ) -> None:
        """Hash the inputs and hold them against the manifests of the stages that made them.

        With `trusts_manifests` an input of the size its manifest records is taken to be that file, unhashed: for
        terabytes.

        Raises:
            UserError: an input is missing, unfinished, or not what its manifest says; or `folder` holds
                something else (another configuration's result, or files no stage made).
        """
        self.folder = folder
        self._trusts_manifests = trusts_manifests
        plain: dict[str, Any] = json.loads(json.dumps(dict(config)))
        self.manifest = Manifest(
            name,
            "running",
            plain,
            seed,
            [self._checked_input(file) for file in inputs],
            versions=package_versions(),
        )
        self._former = read_manifest(folder)
        self._refuse_foreign_folder()

    @property
    def is_complete(self) -> bool:
        """Whether this very stage has already finished and its outputs are still there."""
        former = self._former
        return (
            former is not None
            and former.status == "complete"
            and all(_matches(self.folder / record.path, record) for record in former.outputs)
        )

    @property
    def counts(self) -> dict[str, Any]:
        """What the finished stage counted."""
        return self._former.counts if self._former is not None else {}

    def start(self) -> None:
        """Make the folder and mark it as unfinished."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_manifest(self.folder, self.manifest)

    def finish(self, outputs: Iterable[Path], counts: Mapping[str, Any]) -> None:
        """Hash the outputs and mark the stage complete."""
        records = [record_file(file, self.folder) for file in outputs]
        values = {**vars(self.manifest), "status": "complete", "outputs": records, "counts": dict(counts)}
        self.manifest = self._former = Manifest(**values)
        write_manifest(self.folder, self.manifest)

    def _checked_input(self, file: Path) -> FileRecord:
        if not file.is_file():
            raise UserError("input", file, "no such file", "check the path, or run the stage that makes it")
        maker = maker_of(file)
        if maker is None:
            return record_file(file, self.folder)
        folder, manifest = maker
        if manifest.status != "complete":
            raise UserError("input", file, f"the {manifest.stage} stage that makes it has not finished", "run it again")
        made = {os.path.normpath(folder / record.path): record for record in manifest.outputs}.get(
            os.path.normpath(file)
        )
        if made is not None and self._trusts_manifests and _matches(file, made):
            return FileRecord(os.path.relpath(file, self.folder), made.size_bytes, made.sha256)
        record = record_file(file, self.folder)
        if made is not None and made.sha256 != record.sha256:
            raise UserError(
                "input", file, f"it was changed after the {manifest.stage} stage wrote it", "run that stage again"
            )
        return record

    def _refuse_foreign_folder(self) -> None:
        remedy = "name another output folder, or move this one away"
        if self._former is not None:
            if (difference := self.manifest.difference(self._former)) is not None:
                raise UserError("output", self.folder, f"it holds another run's result ({difference})", remedy)
        elif self.folder.is_dir() and any(self.folder.iterdir()):
            raise UserError("output", self.folder, "it holds files that no stage of this run made", remedy)


def _matches(file: Path, record: FileRecord) -> bool:
    return file.is_file() and file.stat().st_size == record.size_bytes
