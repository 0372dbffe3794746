"""The safetensors files of a Hugging Face folder, written and hashed tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from megatron_ipt.checkpointing.tensor_file import file_header, tensor_bytes
from megatron_ipt.conversion.hf_files import INDEX_NAME, SINGLE_NAME
from megatron_ipt.conversion.tensor_checks import ValueCheck
from megatron_ipt.corpus.finished_files import FinishedFiles
from megatron_ipt.corpus.manifest import FileRecord, record_file, write_atomically
from megatron_ipt.errors import UserError
from megatron_ipt.observability.progress import ProgressDisplay

MAX_SHARD_BYTES = 2 * 10**9
"""Size of a file, unless a single tensor is larger: what an interruption costs at most."""


@dataclass(frozen=True)
class HfTensors:
    """The tensors of a Hugging Face model, which come into being as they are read.

    Attributes:
        shapes: by name, in the order in which they fill the files.
        dtype: number format in the files.
        read: yields the tensors of the given names, in their order, contiguous and on the CPU.
        check: has looked at the values of every tensor that was read.
    """

    shapes: Mapping[str, torch.Size]
    dtype: torch.dtype
    read: Callable[[Sequence[str]], Iterator[torch.Tensor]]
    check: ValueCheck

    def size_bytes(self, names: Iterable[str]) -> int:
        """Bytes of the tensors called `names`."""
        return sum(self.shapes[name].numel() for name in names) * self.dtype.itemsize


def write_weights(
    folder: Path,
    tensors: HfTensors,
    finished: FinishedFiles | None = None,
    *,
    max_shard_bytes: int | None = None,
    progress: ProgressDisplay | None = None,
) -> list[FileRecord]:
    """Write tensors to model.safetensors, or to numbered files with an index if one would be too large.

    A file gets its name when it is on the disk and all its values are numbers.

    Args:
        folder: where to write.
        tensors: one at a time is in memory, and one more that is being written.
        finished: files in `folder` that an interrupted call with the same tensors has finished, which are kept.
        max_shard_bytes: size of a file, unless a single tensor is larger; by default `MAX_SHARD_BYTES`.
        progress: shows how many tensors are written.

    Returns:
        The files, with the index.

    Raises:
        UserError: some values are no numbers, or too large for the number format; nothing is left.
    """
    shards = _named(folder, _split(tensors, MAX_SHARD_BYTES if max_shard_bytes is None else max_shard_bytes))
    kept = FinishedFiles(folder) if finished is None else finished
    records, written = [], 0
    try:
        for file, names in shards.items():
            known = kept.find(file)
            if known is not None and known.contents == names:
                records.append(known.record)
            else:
                shown = _counted(tensors.read(names), written, len(tensors.shapes), progress)
                records += _write_shard(
                    file,
                    file_header({name: (tensors.dtype, tensors.shapes[name]) for name in names}),
                    names,
                    shown,
                    tensors.check,
                    kept,
                )
            written += len(names)
        tensors.check.finish()
    except UserError:
        kept.clear()
        for file in shards:
            file.unlink(missing_ok=True)
        raise
    if progress is not None:
        progress.complete(len(tensors.shapes))
    if finished is None:
        kept.clear()
    return records if len(shards) == 1 else [*records, _write_index(folder, shards, tensors)]


def _split(tensors: HfTensors, max_shard_bytes: int) -> list[list[str]]:
    """The names in each file, in the order in which safetensors puts them."""
    shards: list[list[str]] = [[]]
    shard_bytes = 0
    for name in tensors.shapes:
        size_bytes = tensors.size_bytes([name])
        if shards[-1] and shard_bytes + size_bytes > max_shard_bytes:
            shards.append([])
            shard_bytes = 0
        shards[-1].append(name)
        shard_bytes += size_bytes
    return [sorted(names) for names in shards]


def _named(folder: Path, shards: list[list[str]]) -> dict[Path, list[str]]:
    if len(shards) == 1:
        return {folder / SINGLE_NAME: shards[0]}
    return {
        folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors": names
        for number, names in enumerate(shards, start=1)
    }


def _write_shard(
    file: Path,
    header: bytes,
    names: Sequence[str],
    tensors: Iterable[torch.Tensor],
    check: ValueCheck,
    finished: FinishedFiles,
) -> list[FileRecord]:
    """Write the next tensor's predecessor while the next one is read; no record if values are not numbers."""
    with finished.writing(file) as written, ThreadPoolExecutor(max_workers=1) as thread:
        writing: Future[int] = thread.submit(written.write, header)
        for tensor in tensors:
            writing.result()
            writing = thread.submit(written.write, tensor_bytes(tensor))
            del tensor
        writing.result()
        return [finished.finish(file, written, list(names)).record] if check.is_clean else []


def _counted(
    tensors: Iterator[torch.Tensor], written: int, total: int, progress: ProgressDisplay | None
) -> Iterator[torch.Tensor]:
    for number, tensor in enumerate(tensors, start=written + 1):
        yield tensor
        if progress is not None and progress.is_due:
            progress.update(number, total)


def _write_index(folder: Path, shards: dict[Path, list[str]], tensors: HfTensors) -> FileRecord:
    files = {name: file.name for file, names in shards.items() for name in names}
    weight_map = {name: files[name] for name in tensors.shapes}
    values = {"metadata": {"total_size": tensors.size_bytes(tensors.shapes)}, "weight_map": weight_map}
    write_atomically(folder / INDEX_NAME, json.dumps(values, indent=2) + "\n")
    return record_file(folder / INDEX_NAME, folder)
