"""Files of a stranger's making that would run code if they were unpickled."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from megatron_ipt.checkpointing.contents import files_of, read_contents, write_contents
from megatron_ipt.checkpointing.layout import CONTENTS_NAME
from megatron_ipt.corpus.manifest import MANIFEST_NAME, record_file


class Payload:
    """Unpickled, it touches a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return Path.touch, (self.proof,)


def pickle_file(file: Path, payload: Payload) -> None:
    file.write_bytes(pickle.dumps(payload))


def pickle_tensor(shard: Path, payload: Payload) -> None:
    """In the place of the first tensor, which torch would unpickle."""
    stored = io.BytesIO()
    torch.save(payload, stored, _use_new_zipfile_serialization=False)
    with shard.open("r+b") as handle:
        handle.write(stored.getvalue())


def largest_shard(checkpoint: Path) -> Path:
    return max(checkpoint.glob("*.distcp"), key=lambda file: file.stat().st_size)


def reseal(checkpoint: Path) -> None:
    """Make the seal fit the files as they are now."""
    files = [file for file in files_of(checkpoint) if file.name not in (CONTENTS_NAME, MANIFEST_NAME)]
    records = [record_file(file, checkpoint) for file in files]
    write_contents(checkpoint, replace(read_contents(checkpoint), files=records))
