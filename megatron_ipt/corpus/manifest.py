"""What a stage read and made, so that every result can be followed back to the raw text.

A folder that a stage made holds a `manifest.json`; a dataset in a folder that it shares with other files has a
`DATASET.manifest.json` beside it. Inputs are named by content hash; an input that another stage made is checked against
that stage's manifest, which gives the chain. Manifests hold no clock times: the same seed and the same input give the
same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from megatron_ipt import __version__
from megatron_ipt.errors import UserError
from megatron_ipt.system_errors import naming

MANIFEST_NAME = "manifest.json"
_VERSIONED_PACKAGES = (
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


def dataset_manifest_name(dataset: str) -> str:
    """The name of the manifest beside DATASET.bin and DATASET.idx."""
    return f"{dataset}.{MANIFEST_NAME}"


def read_manifest(folder: Path, name: str = MANIFEST_NAME) -> Manifest | None:
    """The manifest `name` of `folder`, or None when there is none (another program's file of that name counts as none).

    Raises:
        UserError: it is damaged.
    """
    file = folder / name
    if not file.is_file():
        return None
    try:
        values: Any = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or "stage" not in values:
            return None
        records = {kind: [FileRecord(**record) for record in values.pop(kind)] for kind in ("inputs", "outputs")}
        return Manifest(**{**values, **records})
    except (ValueError, KeyError, TypeError) as error:
        remedy = "make what it describes again, after moving that file away"
        raise UserError(str(file), "(damaged)", f"not a manifest: {error}", remedy) from error


def write_manifest(folder: Path, manifest: Manifest, name: str = MANIFEST_NAME) -> None:
    """Write the manifest atomically: a reader sees the former one or this one."""
    write_atomically(folder / name, json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n")


def write_atomically(file: Path, text: str) -> None:
    """Write `text` beside `file`, bring it to the disk, then rename it into place."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(8)}.tmp")  # another process may be writing `file` too
    with naming(file, temporary):
        try:
            with temporary.open("x", encoding="utf-8") as handle:
                handle.write(text)
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)


def maker_of(file: Path) -> tuple[Path, Manifest] | None:
    """The manifest of the stage that made `file`, with its path; None for raw input.

    That is the manifest of the dataset to which `file` belongs, or else the one of the nearest folder above it.
    """
    dataset = file.absolute().with_suffix(f".{MANIFEST_NAME}")
    if (manifest := read_manifest(dataset.parent, dataset.name)) is not None and _claims(manifest, file.name):
        return dataset, manifest
    for folder in file.absolute().parents:
        if (manifest := read_manifest(folder)) is not None:
            return folder / MANIFEST_NAME, manifest
    return None


def _claims(manifest: Manifest, name: str) -> bool:
    """Whether the manifest of a dataset covers the file `name` beside it; an unfinished one names no outputs yet."""
    return manifest.status != "complete" or any(record.path == name for record in manifest.outputs)


def record_file(file: Path, folder: Path) -> FileRecord:
    """Size and SHA-256 of `file`, named relative to `folder`."""
    with file.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256")
    return FileRecord(os.path.relpath(file, folder), file.stat().st_size, digest.hexdigest())


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what a stage writes."""
    versions = {"python": platform.python_version(), "megatron-ipt": __version__}
    for package in _VERSIONED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


class Stage:
    """One stage's results: refuses to overwrite what is not its own, knows what is done, writes the manifest.

    Use: construct it, leave if `is_complete`, else `start()`, do the work, `finish(...)`.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        config: Mapping[str, Any],
        inputs: Iterable[Path | FileRecord],
        seed: int | None = None,
        trusts_manifests: bool = False,
        *,
        manifest_name: str = MANIFEST_NAME,
        files: Sequence[Path] | None = None,
        has_results: Callable[[], bool] | None = None,
    ) -> None:
        """Hash the inputs and hold them against the manifests of the stages that made them.

        Args:
            name: of the stage.
            folder: where the results go; it belongs to the stage, unless `files` is given.
            config: the settings that decide the result.
            inputs: files; or the records of another stage's manifest in the same folder, already checked.
            seed: of everything random in the stage.
            trusts_manifests: take an input of the size its manifest records to be that file, unhashed: for terabytes.
            manifest_name: the manifest in `folder`.
            files: all that the stage writes into a folder that it shares; only these can be in its way.
            has_results: whether `folder` holds anything that an unfinished run of this stage would resume from. Where
                it does not, such a run is replaced, whatever its settings and inputs were. Not given: any file beside
                the manifest counts as a result.

        Raises:
            UserError: an input is missing, unfinished, or not what its manifest says; or the results would overwrite
                something else (another configuration's result, or files no stage made).
        """
        self.folder = folder
        self._manifest_name, self._files = manifest_name, files
        self._has_results = has_results or (lambda: True)
        self._trusts_manifests = trusts_manifests
        self._made_folder = False
        plain: dict[str, Any] = json.loads(json.dumps(dict(config)))
        self.manifest = Manifest(
            name,
            "running",
            plain,
            seed,
            [file if isinstance(file, FileRecord) else self._checked_input(file) for file in inputs],
            versions=package_versions(),
        )
        self._former = read_manifest(folder, manifest_name)
        self.replaces_attempt = False
        """Whether an unfinished run of other settings or inputs was here: what it left must not be resumed from."""
        self._refuse_to_overwrite()

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
        """Make the folder and mark the results as unfinished."""
        self._made_folder = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_manifest(self.folder, self.manifest, self._manifest_name)

    def finish(self, outputs: Iterable[Path], counts: Mapping[str, Any]) -> None:
        """Hash the outputs and mark the stage complete."""
        records = [record_file(file, self.folder) for file in outputs]
        values = {**vars(self.manifest), "status": "complete", "outputs": records, "counts": dict(counts)}
        self.manifest = self._former = Manifest(**values)
        write_manifest(self.folder, self.manifest, self._manifest_name)

    def abandon(self) -> None:
        """Undo `start` after a failure that left no results: remove the manifest, and the folder if it is empty."""
        (self.folder / self._manifest_name).unlink(missing_ok=True)
        if self._made_folder and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _checked_input(self, file: Path) -> FileRecord:
        if not file.is_file():
            raise UserError("input", file, "no such file", "check the path, or run the stage that makes it")
        maker = maker_of(file)
        if maker is None:
            return record_file(file, self.folder)
        manifest_file, manifest = maker
        if manifest.status != "complete":
            raise UserError("input", file, f"the {manifest.stage} stage that makes it has not finished", "run it again")
        made = {os.path.normpath(manifest_file.parent / record.path): record for record in manifest.outputs}.get(
            os.path.normpath(file.absolute())
        )
        if made is not None and self._trusts_manifests and _matches(file, made):
            return FileRecord(os.path.relpath(file, self.folder), made.size_bytes, made.sha256)
        record = record_file(file, self.folder)
        if made is not None and made.sha256 != record.sha256:
            raise UserError(
                "input", file, f"it was changed after the {manifest.stage} stage wrote it", "run that stage again"
            )
        return record

    def _refuse_to_overwrite(self) -> None:
        found = self._found_files()
        where = self.folder if self._files is None else self.folder / self._manifest_name
        remedy = "name another output, or move this one away"
        if self._former is None:
            if found and self._files is not None:
                reason = "it would be overwritten, and no run of this stage made it"
                raise UserError("output", found[0], reason, remedy)
            if found:
                raise UserError("output", self.folder, "it holds files that no stage of this run made", remedy)
        elif (difference := self.manifest.difference(self._former)) is not None:
            if found and self._is_kept(self._former):
                raise UserError("output", where, f"it holds another run's result ({difference})", remedy)
            self._former, self.replaces_attempt = None, True

    def _is_kept(self, former: Manifest) -> bool:
        """Whether a run of other settings must not replace what `former` left."""
        return former.status == "complete" or former.stage != self.manifest.stage or self._has_results()

    def _found_files(self) -> list[Path]:
        """What is where the results go, but for the manifest."""
        if self._files is not None:
            return [file for file in self._files if file.exists()]
        manifest = self.folder / self._manifest_name
        ours = (manifest, *self.folder.glob(f".{manifest.name}.*.tmp"))
        return sorted(set(self.folder.iterdir()).difference(ours)) if self.folder.is_dir() else []


def _matches(file: Path, record: FileRecord) -> bool:
    return file.is_file() and file.stat().st_size == record.size_bytes
