"""The manifest of a run folder, written again where it is lost: each checkpoint carries it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from megatron_ipt.checkpointing.layout import iteration_folder, saved_iterations
from megatron_ipt.corpus.manifest import MANIFEST_NAME, Manifest, read_manifest, write_manifest
from megatron_ipt.errors import UserError

STAGE_NAME = "pretrain"


def recover_manifest(run: Path) -> None:
    """Write the manifest of `run` if it is missing and a checkpoint says what the run was; every rank may call this.

    It is the manifest of the run as it was started: unfinished, with the inputs that the checkpoint records.
    """
    if (run / MANIFEST_NAME).exists():
        return
    for iteration in saved_iterations(run):
        folder = iteration_folder(run, iteration)
        if (manifest := _manifest_of(folder)) is not None:
            inputs = [replace(one, path=os.path.relpath(folder / one.path, run)) for one in manifest.inputs]
            write_manifest(run, replace(manifest, status="running", inputs=inputs, outputs=[], counts={}))
            return


def _manifest_of(checkpoint: Path) -> Manifest | None:
    try:
        manifest = read_manifest(checkpoint)
    except UserError:
        return None  # damaged; an older checkpoint may have a whole one
    return manifest if manifest is not None and manifest.stage == STAGE_NAME else None
