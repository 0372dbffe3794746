"""The last steps of a save: records of all files, the name of the checkpoint, and the file that names the newest."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from megatron_ipt.checkpointing.contents import Contents, sync_folder, write_contents
from megatron_ipt.checkpointing.layout import CONTENTS_NAME, abandon, iteration_folder, write_latest
from megatron_ipt.checkpointing.run_lock import RunLock
from megatron_ipt.corpus.manifest import Manifest, record_file, write_manifest


def publish(run: Path, partial: Path, contents: Contents, lineage: Manifest, lock: RunLock) -> Path:
    """Make the folder `partial` the newest checkpoint of `run`, and return its new path.

    Args:
        run: the run folder.
        partial: holds the files of the checkpoint, on disk.
        contents: the contents of the checkpoint, with the records of these files.
        lineage: the manifest of the run; the checkpoint gets a copy, as a complete stage.
        lock: the lock on the run.

    Raises:
        UserError: another job has been started on the same run.
    """
    folder = iteration_folder(run, contents.iteration)
    write_contents(partial, contents)
    progress = {"iteration": contents.iteration, "consumed_train_samples": contents.consumed_train_samples}
    inputs = [replace(record, path=os.path.relpath(run / record.path, partial)) for record in lineage.inputs]
    outputs = [record_file(partial / CONTENTS_NAME, partial)]
    write_manifest(partial, replace(lineage, status="complete", inputs=inputs, outputs=outputs, counts=progress))
    sync_folder(partial)
    lock.check()
    if os.path.lexists(folder):
        abandon(folder)
    partial.rename(folder)
    write_latest(run, contents.iteration)
    sync_folder(folder.parent)
    return folder
