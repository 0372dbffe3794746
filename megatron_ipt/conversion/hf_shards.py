"""The safetensors files of a Hugging Face folder, written and hashed tensor by tensor.

safetensors' own functions take all tensors of a file at once: 5 GB. The format is a header, which says where each
tensor lies, and the tensors; the bytes written here are those that safetensors writes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch

from megatron_ipt.conversion.hf_files import INDEX_NAME, SINGLE_NAME
from megatron_ipt.conversion.tensor_checks import ValueCheck
from megatron_ipt.corpus.manifest import FileRecord, record_file, write_atomically
from megatron_ipt.errors import UserError
from megatron_ipt.observability.progress import ProgressDisplay
from megatron_ipt.system_errors import naming

MAX_SHARD_BYTES = 5 * 10**9
_FORMATS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_ALIGNMENT_BYTES = 8
_PIECE_BYTES = 2**22


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
    max_shard_bytes: int = MAX_SHARD_BYTES,
    *,
    resume: bool = False,
    progress: ProgressDisplay | None = None,
) -> list[FileRecord]:
    """Write tensors to model.safetensors, or to numbered files with an index if one would be too large.

    A file gets its name when it is on the disk and all its values are numbers.

    Args:
        folder: where to write.
        tensors: one at a time is in memory, and one more that is being written.
        max_shard_bytes: size of a file, unless a single tensor is larger.
        resume: keep the files that an interrupted call with the same tensors has finished.
        progress: shows how many tensors are written.

    Returns:
        The files, with the index.

    Raises:
        UserError: some values are no numbers, or too large for the number format; nothing is left.
    """
    shards = _named(folder, _split(tensors, max_shard_bytes))
    records, written = [], 0
    try:
        for file, names in shards.items():
            header = _header(tensors, names)
            if resume and _is_finished(file, header, tensors.size_bytes(names)):
                records.append(record_file(file, folder))
            else:
                shown = _counted(tensors.read(names), written, len(tensors.shapes), progress)
                records.append(_write_shard(file, header, shown, tensors.check))
            written += len(names)
        tensors.check.finish()
    except UserError:
        for file in shards:
            file.unlink(missing_ok=True)
        raise
    if progress is not None:
        progress.complete(len(tensors.shapes))
    return records if len(shards) == 1 else [*records, _write_index(folder, shards, tensors)]


def missing_bytes(folder: Path, tensors: HfTensors, max_shard_bytes: int = MAX_SHARD_BYTES) -> int:
    """Bytes that have to be free for `write_weights` to resume; a file that was cut short is written over."""
    needed = 0
    for file, names in _named(folder, _split(tensors, max_shard_bytes)).items():
        size_bytes, partial = tensors.size_bytes(names), _partial(file)
        if not _is_finished(file, _header(tensors, names), size_bytes):
            needed += size_bytes - (partial.stat().st_size if partial.is_file() else 0)
    return needed


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


def _header(tensors: HfTensors, names: Sequence[str]) -> bytes:
    ends = list(accumulate(tensors.size_bytes([name]) for name in names))
    places = {
        name: {"dtype": _FORMATS[tensors.dtype], "shape": list(tensors.shapes[name]), "data_offsets": [start, end]}
        for name, start, end in zip(names, [0, *ends], ends, strict=False)
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **places}, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    return len(text).to_bytes(8, "little") + text


def _is_finished(file: Path, header: bytes, size_bytes: int) -> bool:
    if not file.is_file() or file.stat().st_size != len(header) + size_bytes:
        return False
    with file.open("rb") as handle:
        return handle.read(len(header)) == header


def _partial(file: Path) -> Path:
    return file.with_name(f".{file.name}.partial")


def _write_shard(file: Path, header: bytes, tensors: Iterable[torch.Tensor], check: ValueCheck) -> FileRecord:
    """Write the next tensor's predecessor while the next one is read."""
    partial = _partial(file)
    digest = hashlib.sha256()
    try:
        with naming(file, partial), partial.open("wb") as handle, ThreadPoolExecutor(max_workers=1) as thread:

            def write(data: memoryview) -> None:
                for start in range(0, len(data), _PIECE_BYTES):
                    digest.update(data[start : start + _PIECE_BYTES])
                    handle.write(data[start : start + _PIECE_BYTES])

            writing: Future[None] = thread.submit(write, memoryview(header))
            for tensor in tensors:
                writing.result()
                writing = thread.submit(write, tensor.view(-1).view(torch.uint8).numpy().data)
                del tensor
            writing.result()
            handle.flush()
            os.fsync(handle.fileno())
        record = FileRecord(file.name, partial.stat().st_size, digest.hexdigest())
        if check.is_clean:
            partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return record


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
