"""Compressed and plain files as lines of bytes; a damaged or truncated stream raises one of READ_ERRORS.

The standard library's readers of bzip2 and xz (Python 3.11 to 3.13) treat invalid bytes after the first stream as
trailing garbage, and end the file there without an error. In a file of several streams, that hides damage to the second
one and loses everything after it; `_ConcatenatedStreams` raises instead.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

READ_ERRORS: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""Exceptions that reading a damaged file raises."""
_UNCOMPRESSED_EXTENSIONS = (".jsonl", ".json")
_BUFFER_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 18


class _Decompressor(Protocol):
    """The interface of a decompressor of one stream, shared by `bz2`, `lzma` and `_Gzip`."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def file_extension(file: Path) -> str:
    """Return the last extension of the name in lower case: .gz for A.JSONL.GZ."""
    return file.suffix.lower()


def is_compressed(file: Path) -> bool:
    """Return whether the file holds fewer bytes than its text: it is compressed, or parquet."""
    return file_extension(file) not in _UNCOMPRESSED_EXTENSIONS


def open_lines(file: Path) -> BinaryIO:
    """Open a plain or compressed file as binary lines; the extension of the name selects the decompressor.

    Zero bytes after a gzip, bzip2 or xz stream are padding, not damage.

    Raises:
        OSError: the file cannot be opened, or is an empty .zst.
    """
    extension = file_extension(file)
    if extension == ".zst":
        import pyarrow as pa

        if not file.stat().st_size:
            raise OSError("the file is empty, without even the header of a compressed file")
        stream = cast(io.RawIOBase, pa.input_stream(str(file), compression="zstd"))
        return io.BufferedReader(stream, _CHUNK_BYTES)
    if extension in _DECOMPRESSORS:
        return io.BufferedReader(_ConcatenatedStreams(file, _DECOMPRESSORS[extension]), _CHUNK_BYTES)
    return file.open("rb", buffering=_BUFFER_BYTES)


class _Gzip:
    """One gzip stream, with its checksum."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 16)  # + 16: gzip header and trailer, in zlib's API

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)


_DECOMPRESSORS: dict[str, Callable[[], _Decompressor]] = {
    ".gz": _Gzip,
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lzma.LZMADecompressor,
}


class _ConcatenatedStreams(io.RawIOBase):
    """The decompressed content of the streams of a file, one after another.

    Chunks are returned as soon as they are decompressed, so that the rows before the damage are read before it raises.
    """

    def __init__(self, file: Path, make: Callable[[], _Decompressor]) -> None:
        self._handle, self._make = file.open("rb"), make
        self._stream = make()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        content = self._read_chunk(len(view))
        view[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._handle.close()
        super().close()

    def _read_chunk(self, max_bytes: int) -> bytes:
        """Return the next bytes of the content; none at the end of the file."""
        while True:
            data = b""
            if self._stream.eof:
                if not (data := self._start_of_next_stream()):
                    return b""
                self._stream = self._make()
            elif self._stream.needs_input and not (data := self._handle.read(_CHUNK_BYTES)):
                raise EOFError("it ends in the middle of a compressed stream")
            if content := self._stream.decompress(data, max_bytes):
                return content

    def _start_of_next_stream(self) -> bytes:
        """Return the first bytes after the stream that has ended, without the padding; none at the end of the file."""
        data = self._stream.unused_data.lstrip(b"\0")
        while not data and (chunk := self._handle.read(_CHUNK_BYTES)):
            data = chunk.lstrip(b"\0")
        return data
