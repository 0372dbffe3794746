"""Manifests: the inputs and outputs of a stage, so that every result can be traced to the raw text.

A folder that a stage wrote holds a `manifest.json`; a dataset in a folder shared with other files has a
`DATASET.manifest.json` next to it. Inputs are identified by content hash; an input that another stage produced is
checked against that stage's manifest, which links the two. Manifests hold no clock times: the same seed and input give
the same bytes (docs/adr/0003).
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from megatron_ipt import __version__
from megatron_ipt.errors import UserError
from megatron_ipt.system_errors import naming

MANIFEST_NAME = "manifest.json"
_HASHING_THREADS = 4
_VERSIONED_PACKAGES = ("gigatoken", "lm_eval", "megatron-core", "tokenizers", "torch", "transformers")


Item = TypeVar("Item")
Result = TypeVar("Result")
JsonObject = dict[str, Any]
"""A parsed JSON object, whose fields its reader knows."""


@dataclass(frozen=True)
class FileRecord:
    """One file: its path relative to the manifest's folder, its size, and its content hash."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The inputs and outputs of one stage; `status` is running until the stage has finished, then complete."""

    stage: str
    status: str
    config: JsonObject
    seed: int | None = None
    inputs: list[FileRecord] = field(default_factory=list)
    outputs: list[FileRecord] = field(default_factory=list)
    counts: JsonObject = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def difference(self, other: Manifest) -> str | None:
        """Describe the first difference between two runs of a stage (settings or inputs); None if they are the same."""
        if self.stage != other.stage:
            return f"stage: {other.stage} then, {self.stage} now"
        for key in sorted({*self.config, *other.config}):
            if self.config.get(key) != other.config.get(key):
                return f"{key}: {other.config.get(key)!r} then, {self.config.get(key)!r} now"
        mine, theirs = ({(record.path, record.sha256) for record in run.inputs} for run in (self, other))
        if mine != theirs:
            return f"input {min(mine ^ theirs)[0]} has changed since"
        return None


def dataset_manifest_name(dataset: str) -> str:
    """Return the name of the manifest next to DATASET.bin and DATASET.idx."""
    return f"{dataset}.{MANIFEST_NAME}"


def read_manifest(folder: Path, name: str = MANIFEST_NAME) -> Manifest | None:
    """Read the manifest `name` of `folder`; None if there is none, or if another program's file has that name.

    Raises:
        UserError: the manifest is damaged.
    """
    file = folder / name
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or "stage" not in values:
            return None
        records = {kind: [FileRecord(**record) for record in values.pop(kind)] for kind in ("inputs", "outputs")}
        return Manifest(**{**values, **records})
    except (ValueError, KeyError, TypeError) as error:
        remedy = "move this file away, and run the stage that wrote it again"
        raise UserError(str(file), "(damaged)", f"not a manifest: {error}", remedy) from error


def write_manifest(folder: Path, manifest: Manifest, name: str = MANIFEST_NAME) -> None:
    """Write the manifest atomically: a reader sees the previous one or this one."""
    write_atomically(folder / name, json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n")


def write_atomically(file: Path, text: str) -> None:
    """Write `text` to a temporary file next to `file`, flush it to the disk, and rename it to `file`."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(8)}.tmp")  # another process may be writing `file` too
    with naming(file, temporary):
        try:
            with temporary.open("x", encoding="utf-8") as handle:
                handle.write(text)
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(file)  # atomic: POSIX rename within one folder
        finally:
            temporary.unlink(missing_ok=True)


def find_producer(file: Path) -> tuple[Path, Manifest] | None:
    """Find the manifest of the stage that wrote `file`, with its path; None for raw input.

    That is the manifest of the dataset that `file` belongs to or, failing that, the one of the nearest parent folder
    that has one.
    """
    dataset = file.absolute().with_suffix(f".{MANIFEST_NAME}")
    if (manifest := read_manifest(dataset.parent, dataset.name)) is not None and _covers(manifest, file.name):
        return dataset, manifest
    for folder in file.absolute().parents:
        if (manifest := read_manifest(folder)) is not None:
            return folder / MANIFEST_NAME, manifest
    return None


def _covers(manifest: Manifest, name: str) -> bool:
    """Return whether a dataset's manifest covers the file `name` next to it; an unfinished one lists no outputs yet."""
    return manifest.status != "complete" or any(record.path == name for record in manifest.outputs)


def record_file(file: Path, folder: Path) -> FileRecord:
    """Record the size and SHA-256 of `file`, with its path relative to `folder`."""
    with file.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256")
    return FileRecord(os.path.relpath(file, folder), file.stat().st_size, digest.hexdigest())


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield the results of `function`, which hashes files, for each of `items`, in order, from several threads."""
    with ThreadPoolExecutor(max_workers=_HASHING_THREADS) as threads:
        yield from threads.map(function, items)


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that influence the bytes a stage writes."""
    versions = {"python": platform.python_version(), "megatron-ipt": __version__}
    for package in _VERSIONED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


class Stage:
    """The results of one stage: skips what is complete, refuses to overwrite foreign files, writes the manifest.

    Construct it, return if `is_complete`, else call `start()`, do the work, and call `finish(...)`.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        config: Mapping[str, object],
        inputs: Iterable[Path | FileRecord],
        seed: int | None = None,
        trusts_manifests: bool = False,
        *,
        manifest_name: str = MANIFEST_NAME,
        files: Sequence[Path] | None = None,
        has_results: Callable[[], bool] | None = None,
    ) -> None:
        """Hash the inputs and check them against the manifests of the stages that produced them.

        Args:
            name: the name of the stage.
            folder: the folder of the results; it belongs to the stage, unless `files` is given.
            config: the settings that determine the result.
            inputs: files; or records of another stage's manifest in the same folder, which are taken as checked.
            seed: the seed of everything random in the stage.
            trusts_manifests: accept an input as unchanged if its size is the recorded one, without hashing it: for
                terabytes.
            manifest_name: the name of the manifest in `folder`.
            files: all files that the stage writes, if it shares `folder` with others; only these are checked for
                conflicts.
            has_results: returns whether `folder` holds anything that an unfinished run of this stage would resume from.
                If it does not, that run is replaced, whatever its settings and inputs were. By default, any file
                besides the manifest counts as a result.

        Raises:
            UserError: an input is missing, unfinished, or differs from its manifest; or the results would overwrite
                those of another configuration, or files that no stage wrote.
        """
        self.folder = folder
        self._manifest_name, self._files = manifest_name, files
        self._has_results = has_results or (lambda: True)
        self._trusts_manifests = trusts_manifests
        self._made_folder = False
        # tuples become lists here, as they do in a manifest that is read back: the two must compare equal
        plain: JsonObject = json.loads(json.dumps(dict(config)))
        self.manifest = Manifest(
            name,
            "running",
            plain,
            seed,
            [*in_threads(lambda file: file if isinstance(file, FileRecord) else self._checked_input(file), inputs)],
            versions=package_versions(),
        )
        self._previous = read_manifest(folder, manifest_name)
        self.replaces_attempt = False
        """Whether an unfinished run with other settings or inputs was here, whose files must not be resumed from."""
        self._refuse_to_overwrite()

    @property
    def is_complete(self) -> bool:
        """Whether this stage has already finished with the same settings and inputs, and its outputs still exist."""
        previous = self._previous
        return (
            previous is not None
            and previous.status == "complete"
            and all(_has_recorded_size(self.folder / record.path, record) for record in previous.outputs)
        )

    @property
    def counts(self) -> JsonObject:
        """The counts that the finished stage recorded; empty if it has not finished."""
        return self._previous.counts if self._previous is not None else {}

    def start(self) -> None:
        """Create the folder and mark the results as unfinished."""
        self._made_folder = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_manifest(self.folder, self.manifest, self._manifest_name)

    def finish(self, outputs: Iterable[Path | FileRecord], counts: Mapping[str, object]) -> None:
        """Hash the outputs that have no record yet, record `counts`, and mark the stage complete."""
        records = [
            *in_threads(lambda file: file if isinstance(file, FileRecord) else record_file(file, self.folder), outputs)
        ]
        values = {**vars(self.manifest), "status": "complete", "outputs": records, "counts": dict(counts)}
        self.manifest = self._previous = Manifest(**values)
        write_manifest(self.folder, self.manifest, self._manifest_name)

    def abandon(self) -> None:
        """Undo `start` after a failure that left no results: remove the manifest, and the folder if it is empty."""
        (self.folder / self._manifest_name).unlink(missing_ok=True)
        if self._made_folder and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _checked_input(self, file: Path) -> FileRecord:
        if not file.is_file():
            raise UserError("input", file, "no such file", "check the path, or run the stage that makes it")
        producer = find_producer(file)
        if producer is None:
            return record_file(file, self.folder)
        manifest_file, manifest = producer
        if manifest.status != "complete":
            raise UserError("input", file, f"the {manifest.stage} stage that makes it has not finished", "run it again")
        recorded = {os.path.normpath(manifest_file.parent / record.path): record for record in manifest.outputs}.get(
            os.path.normpath(file.absolute())
        )
        if recorded is not None and self._trusts_manifests and _has_recorded_size(file, recorded):
            return FileRecord(os.path.relpath(file, self.folder), recorded.size_bytes, recorded.sha256)
        record = record_file(file, self.folder)
        if recorded is not None and recorded.sha256 != record.sha256:
            raise UserError(
                "input", file, f"it was changed after the {manifest.stage} stage wrote it", "run that stage again"
            )
        return record

    def _refuse_to_overwrite(self) -> None:
        existing = self._existing_files()
        result = self.folder if self._files is None else self.folder / self._manifest_name
        remedy = "choose another output, or move this one away"
        if self._previous is None:
            if existing and self._files is not None:
                reason = "the file would be overwritten, and no run of this stage wrote it"
                raise UserError("output", existing[0], reason, remedy)
            if existing:
                raise UserError("output", self.folder, "the folder holds files that no stage of this run wrote", remedy)
        elif (difference := self.manifest.difference(self._previous)) is not None:
            if existing and self._is_kept(self._previous):
                raise UserError("output", result, f"it holds another run's result ({difference})", remedy)
            self._previous, self.replaces_attempt = None, True

    def _is_kept(self, previous: Manifest) -> bool:
        """Return whether the results of `previous` must not be replaced by a run with other settings."""
        return previous.status == "complete" or previous.stage != self.manifest.stage or self._has_results()

    def _existing_files(self) -> list[Path]:
        """Return what exists where the results go, except the manifest."""
        if self._files is not None:
            return [file for file in self._files if file.exists()]
        manifest = self.folder / self._manifest_name
        ours = (manifest, *self.folder.glob(f".{manifest.name}.*.tmp"))  # left by a kill within write_atomically
        return sorted(set(self.folder.iterdir()).difference(ours)) if self.folder.is_dir() else []


def _has_recorded_size(file: Path, record: FileRecord) -> bool:
    return file.is_file() and file.stat().st_size == record.size_bytes
