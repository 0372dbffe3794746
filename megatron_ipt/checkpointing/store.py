"""The checkpoints of one run: save so that a kill leaves the former one, load the newest that is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist

from megatron_ipt.checkpointing.contents import (
    Contents,
    files_of,
    find_damage,
    read_contents,
    record_files,
    write_contents,
)
from megatron_ipt.checkpointing.layout import (
    CONTENTS_NAME,
    RUN_CONFIG_NAME,
    iteration_folder,
    read_latest,
    saved_iterations,
    write_latest,
)
from megatron_ipt.corpus.manifest import Manifest, record_file, write_manifest
from megatron_ipt.parallel.groups import Groups

T = TypeVar("T")


class CheckpointStore:
    """Checkpoints under RUN/checkpoints; every method is a collective call."""

    def __init__(
        self, run: Path, groups: Groups, lineage: Manifest, *, keep_last: int, report: Callable[[str], None]
    ) -> None:
        """`lineage` says what the run reads; each checkpoint carries it, and is a finished stage of its own."""
        self._run, self._groups, self._lineage = run, groups, lineage
        self._keep_last, self._report = keep_last, report

    def save(
        self, iteration: int, consumed_train_samples: int, run_config: Path, write: Callable[[Path], None]
    ) -> Path:
        """Let `write` fill a folder, seal it, give it its name, point to it, and drop what is too old."""
        folder = iteration_folder(self._run, iteration)
        partial = folder.with_name(f".{folder.name}.partial")
        if self._is_main:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        dist.barrier()
        write(partial)
        if self._is_main:
            shutil.copyfile(run_config, partial / RUN_CONFIG_NAME)
        dist.barrier()
        records = self._gathered(record_files(partial, self._mine(files_of(partial))))
        if self._is_main:
            files = sorted(records, key=lambda record: record.path)
            self._seal(partial, Contents(iteration, consumed_train_samples, files))
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
            write_latest(self._run, iteration)
            self._drop_old()
        dist.barrier()
        return folder

    def newest_whole(self) -> tuple[Path, Contents] | None:
        """The newest checkpoint without damage; what is passed over is reported."""
        for iteration in self._from_main(self._candidates()):
            folder = iteration_folder(self._run, iteration)
            contents, damage = self._inspect(folder)
            if contents is not None and damage is None:
                return folder, contents
            self._report(f"checkpoint {folder} is damaged ({damage}); falling back to the one before it")
        return None

    def _seal(self, folder: Path, contents: Contents) -> None:
        write_contents(folder, contents)
        progress = {"iteration": contents.iteration, "consumed_train_samples": contents.consumed_train_samples}
        inputs = [
            replace(record, path=os.path.relpath(self._run / record.path, folder)) for record in self._lineage.inputs
        ]
        outputs = [record_file(folder / CONTENTS_NAME, folder)]
        lineage = replace(self._lineage, status="complete", inputs=inputs, outputs=outputs, counts=progress)
        write_manifest(folder, lineage)

    def _candidates(self) -> list[int]:
        """Finished checkpoints from the newest that the pointer has reached."""
        iterations, latest = saved_iterations(self._run), read_latest(self._run)
        if latest is None:
            return iterations
        return [iteration for iteration in iterations if iteration <= latest] or iterations

    def _inspect(self, folder: Path) -> tuple[Contents | None, str | None]:
        try:
            contents = read_contents(folder)
        except ValueError as error:
            return None, str(error)
        found = self._gathered([find_damage(folder, self._mine(contents.files))])
        return contents, next((damage for damage in found if damage is not None), None)

    def _drop_old(self) -> None:
        if self._keep_last:
            for iteration in saved_iterations(self._run)[self._keep_last :]:
                shutil.rmtree(iteration_folder(self._run, iteration))

    @property
    def _is_main(self) -> bool:
        return self._groups.rank == 0

    def _mine(self, items: list[T]) -> list[T]:
        return items[self._groups.rank :: self._groups.world_size]

    def _gathered(self, items: list[T]) -> list[T]:
        """The lists of all ranks, one after another."""
        parts: list[list[T]] = [[] for _ in range(self._groups.world_size)]
        dist.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def _from_main(self, value: T) -> T:
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]
