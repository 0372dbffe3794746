"""Recovery of a lost run manifest from the copy in each checkpoint."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from megatron_ipt.checkpointing.layout import iteration_folder, saved_iterations
from megatron_ipt.corpus.manifest import MANIFEST_NAME, Manifest, read_manifest, write_manifest
from megatron_ipt.errors import UserError

STAGE_NAME = "pretrain"


def recover_manifest(run: Path) -> None:
    """Write the manifest of `run` again if it is missing and a checkpoint has a copy; every rank may call this.

    The recovered manifest describes an unfinished run with the inputs that the checkpoint records.
    """
    if (run / MANIFEST_NAME).exists():
        return
    for iteration in saved_iterations(run):
        folder = iteration_folder(run, iteration)
        if (manifest := _manifest_of(folder)) is not None:
            inputs = [replace(record, path=os.path.relpath(folder / record.path, run)) for record in manifest.inputs]
            write_manifest(run, replace(manifest, status="running", inputs=inputs, outputs=[], counts={}))
            return


def _manifest_of(checkpoint: Path) -> Manifest | None:
    try:
        manifest = read_manifest(checkpoint)
    except UserError:
        return None  # damaged; an older checkpoint may have an intact one
    return manifest if manifest is not None and manifest.stage == STAGE_NAME else None
