"""megatron-core's indexed dataset on disk, PREFIX.bin and PREFIX.idx, written and checked without torch.

The layout is that of `IndexedDatasetBuilder` in megatron/core/datasets/indexed_dataset.py, with one sequence per
document. All numbers are little-endian. The .bin holds the ids of all documents, concatenated. The .idx holds the magic
bytes, the version (uint64), the dtype code (uint8), the number of sequences and of document bounds (uint64 each), then
the length (int32) and byte offset in the .bin (int64) of each sequence, and the document bounds (int64), which are
sequence numbers starting at 0.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_ipt.errors import UserError
from megatron_ipt.system_errors import naming

LOSS_MASK_SUFFIX = "_loss_mask"
"""Suffix of the prefix of a dataset's loss mask: a dataset with the sum of these flags for each token."""
HAS_LOSS, BEGINS_DOCUMENT = 1, 2
LOSS_MASK_VALUES = 4
_HEADER = struct.Struct("<9sQBQQ")
_MAGIC = b"MMIDIDX\x00\x00"
_VERSION = 1
_DTYPES: dict[int, npt.DTypeLike] = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f8", 7: "<f4", 8: "<u2"}
_LENGTH, _OFFSET = np.dtype("<i4"), np.dtype("<i8")  # the format limits a document to 2**31 - 1 tokens
_CHUNK = 1 << 20  # sequences, or ids, processed at a time
_MAX_CHECKED_CHUNKS = 64
_REMEDY = "run preprocess_data again, or copy the dataset again"


def optimal_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return uint16 for fewer than 65,500 ids, else int32, like megatron-core's `DType.optimal_dtype`."""
    return np.dtype(_DTYPES[8] if vocab_size < 65500 else _DTYPES[4])


class IndexedWriter:
    """Writes documents in batches, with memory that does not depend on their number.

    Use it as a context manager: on success, both files are on the disk under their final names; after an error, neither
    is.
    """

    def __init__(self, prefix: Path, vocab_size: int) -> None:
        """Prepare to write PREFIX.bin and PREFIX.idx; the vocabulary size determines the type of the ids."""
        self.dtype = optimal_dtype(vocab_size)
        self.documents = self.tokens = 0
        self._finals = [Path(f"{prefix}.bin"), Path(f"{prefix}.idx")]
        self._temporaries = [file.with_name(f".{file.name}.tmp") for file in self._finals]
        self._lengths_file = Path(f"{self._temporaries[1]}.lengths")

    def __enter__(self) -> IndexedWriter:
        for file in self._finals:
            file.unlink(missing_ok=True)
        self._bin = self._temporaries[0].open("wb")
        self._lengths = self._lengths_file.open("w+b")
        return self

    def add(self, ids: npt.NDArray[np.unsignedinteger[Any]], lengths: npt.NDArray[np.integer[Any]]) -> None:
        """Append documents: their `ids`, concatenated, (sum of `lengths`,), and the length of each, (documents,)."""
        assert int(lengths.sum()) == ids.size
        with naming(self._finals[0]):
            self._bin.write(ids.astype(self.dtype).data)
            self._lengths.write(lengths.astype(_LENGTH).data)
        self.documents += lengths.size
        self.tokens += ids.size

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with naming(self._finals[1]), self._temporaries[1].open("wb") as index:
                    self._write_index(index)
                    _sync(index)
                with naming(self._finals[0]):
                    _sync(self._bin)
                for temporary, final in zip(self._temporaries, self._finals, strict=True):
                    temporary.replace(final)
        finally:
            for file in (*self._temporaries, self._lengths_file):
                file.unlink(missing_ok=True)
            for handle in (self._bin, self._lengths):
                with suppress(OSError):  # what is left in a buffer does not fit on a full disk either
                    handle.close()

    def _write_index(self, index: BinaryIO) -> None:
        code = next(code for code, dtype in _DTYPES.items() if np.dtype(dtype) == self.dtype)
        index.write(_HEADER.pack(_MAGIC, _VERSION, code, self.documents, self.documents + 1))
        for lengths in self._length_chunks():
            index.write(lengths.data)
        offset = 0
        for lengths in self._length_chunks():
            ends = offset + np.cumsum(lengths, dtype=_OFFSET) * self.dtype.itemsize
            index.write((ends - lengths.astype(_OFFSET) * self.dtype.itemsize).data)
            offset = int(ends[-1])
        for start in range(0, self.documents + 1, _CHUNK):
            index.write(np.arange(start, min(start + _CHUNK, self.documents + 1), dtype=_OFFSET).data)

    def _length_chunks(self) -> Iterator[npt.NDArray[np.int32]]:
        self._lengths.seek(0)
        while block := self._lengths.read(_CHUNK * _LENGTH.itemsize):
            yield np.frombuffer(block, _LENGTH)


def check_indexed_dataset(prefix: Path, vocab_size: int) -> None:
    """Check PREFIX.idx against PREFIX.bin, and the ids against the vocabulary.

    Of a .bin of more than 64 Mi ids, 64 evenly spaced chunks of 1 Mi ids are read, the first and last among them.

    Args:
        prefix: the dataset, without .bin or .idx.
        vocab_size: the number of ids of the model; every id must be below it.

    Raises:
        UserError: a file is missing, truncated or damaged, or an id is not in the vocabulary.
    """
    index_file, bin_file = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    for file in (index_file, bin_file):
        if not file.is_file():
            raise UserError("data", file, "no such file", "check the prefix, or run preprocess_data")
    index = _read_index(index_file)
    tokens = _check_index(index_file, index)
    expected, found = tokens * index.dtype.itemsize, bin_file.stat().st_size
    if found != expected:
        kind = "truncated" if found < expected else "too long"
        raise UserError("data", bin_file, f"{kind}: {found} bytes, {index_file.name} says {expected}", _REMEDY)
    if not tokens:
        raise UserError("data", bin_file, "it holds no tokens", "preprocess text that is not empty")
    ids = np.memmap(bin_file, index.dtype, "r")
    for start in _checked_starts(ids.size):
        chunk = ids[start : start + _CHUNK]
        if int(chunk.max()) >= vocab_size or int(chunk.min()) < 0:
            worst = int(chunk.max()) if int(chunk.max()) >= vocab_size else int(chunk.min())
            raise UserError(
                "data",
                bin_file,
                f"it holds the id {worst}, but the vocabulary has {vocab_size} ids",
                "tokenize with the tokenizer of this model, or copy the file again if it is damaged",
            )


def read_document_lengths(prefix: Path) -> npt.NDArray[np.int32]:
    """Return the number of tokens of each document, (documents,), mapped from PREFIX.idx.

    Raises:
        UserError: the index is missing, truncated or damaged.
    """
    file = Path(f"{prefix}.idx")
    if not file.is_file():
        raise UserError("data", file, "no such file", "check the prefix, or run preprocess_data")
    return _read_index(file).lengths


def read_last_ids(prefix: Path, max_documents: int) -> npt.NDArray[np.int64]:
    """Return the last id of each non-empty document, (documents,); of at most `max_documents`, evenly spaced.

    Raises:
        UserError: the index is damaged.
    """
    index = _read_index(Path(f"{prefix}.idx"))
    documents = index.bounds.size - 1
    chosen = np.unique(np.linspace(0, documents - 1, min(documents, max_documents)).astype(np.int64))
    first, stop = index.bounds[chosen], index.bounds[chosen + 1]
    last = stop[stop > first] - 1  # a document may have several sequences, or none
    last = last[index.lengths[last] > 0]
    positions = index.offsets[last] // index.dtype.itemsize + index.lengths[last] - 1
    return np.memmap(f"{prefix}.bin", index.dtype, "r")[positions].astype(np.int64)


def marks_documents(prefix: Path) -> bool:
    """Return whether the loss mask of a dataset marks the beginnings of documents; if so, it marks the first token.

    Raises:
        UserError: the index of the mask is damaged.
    """
    mask = f"{prefix}{LOSS_MASK_SUFFIX}"
    if not Path(f"{mask}.idx").is_file():
        return False
    values = np.memmap(f"{mask}.bin", _read_index(Path(f"{mask}.idx")).dtype, "r")
    return bool(values[0] & BEGINS_DOCUMENT)


class _Index(NamedTuple):
    dtype: np.dtype[Any]
    lengths: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    bounds: npt.NDArray[np.int64]


def _read_index(file: Path) -> _Index:
    size = file.stat().st_size
    with file.open("rb") as handle:
        header = handle.read(_HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise UserError("data", file, "not the index of a megatron-core dataset", _REMEDY)
    _, version, code, sequences, bound_count = _HEADER.unpack(header)
    if version != _VERSION or code not in _DTYPES:
        raise UserError("data", file, f"unknown format: version {version}, dtype code {code}", _REMEDY)
    expected = _HEADER.size + sequences * (_LENGTH.itemsize + _OFFSET.itemsize) + bound_count * _OFFSET.itemsize
    if size not in (expected, expected + sequences):  # a multimodal index ends with one byte per sequence
        kind = "truncated" if size < expected else "too long"
        raise UserError("data", file, f"{kind}: {size} bytes, its header says {expected}", _REMEDY)
    content = np.memmap(file, np.uint8, "r")
    lengths = np.frombuffer(content, _LENGTH, sequences, _HEADER.size)
    offsets = np.frombuffer(content, _OFFSET, sequences, _HEADER.size + lengths.nbytes)
    bounds = np.frombuffer(content, _OFFSET, bound_count, _HEADER.size + lengths.nbytes + offsets.nbytes)
    return _Index(np.dtype(_DTYPES[code]), lengths, offsets, bounds)


def _check_index(file: Path, index: _Index) -> int:
    """Check that lengths, offsets and document bounds are consistent; return the number of tokens."""
    tokens = 0
    for start in range(0, index.lengths.size, _CHUNK):
        lengths = index.lengths[start : start + _CHUNK].astype(np.int64)
        ends = tokens + np.cumsum(lengths)
        offsets = (ends - lengths) * index.dtype.itemsize
        if lengths.min() < 0 or not np.array_equal(offsets, index.offsets[start : start + _CHUNK]):
            raise UserError("data", file, "damaged: its lengths and offsets are inconsistent", _REMEDY)
        tokens = int(ends[-1])
    bounds = index.bounds
    if not bounds.size or bounds[0] != 0 or bounds[-1] != index.lengths.size or not _is_nondecreasing(bounds):
        raise UserError("data", file, "damaged: its document bounds do not match its sequences", _REMEDY)
    return tokens


def _is_nondecreasing(numbers: npt.NDArray[np.int64]) -> bool:
    """Return whether no number is smaller than the one before it."""
    return all((np.diff(numbers[start : start + _CHUNK + 1]) >= 0).all() for start in range(0, numbers.size, _CHUNK))


def _checked_starts(ids: int) -> list[int]:
    chunks = -(-ids // _CHUNK)
    return (np.unique(np.linspace(0, chunks - 1, min(chunks, _MAX_CHECKED_CHUNKS)).astype(np.int64)) * _CHUNK).tolist()


def _sync(handle: BinaryIO) -> None:
    handle.flush()
    os.fsync(handle.fileno())
