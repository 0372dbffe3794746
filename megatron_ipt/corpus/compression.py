"""Compressed and plain files as lines of bytes; a stream that is damaged or cut off raises one of READ_ERRORS.

The standard library's readers of bzip2 and xz take whatever follows the first stream for the end of the file when it is
not a stream, so that a file of several streams ends without an error where one of them is damaged; `_Streams` raises.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

READ_ERRORS: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""Exceptions that reading a damaged file raises."""
_PLAIN_ENDINGS = (".jsonl", ".json")
_BUFFER_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 18


class _Decompressor(Protocol):
    """The interface that decompressors of one stream share in `bz2`, `lzma` and `_Gzip`."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def ending_of(file: Path) -> str:
    """The last ending of the name in lower case: .gz of A.JSONL.GZ."""
    return file.suffix.lower()


def is_packed(file: Path) -> bool:
    """Whether the file holds fewer bytes than its text has: it is compressed, or parquet."""
    return ending_of(file) not in _PLAIN_ENDINGS


def open_lines(file: Path) -> BinaryIO:
    """Binary lines of a plain or compressed file; the ending of the name gives the compression.

    Zero bytes behind a gzip, bzip2 or xz stream are padding, not damage.

    Raises:
        OSError: the file cannot be opened, or is an empty .zst.
    """
    ending = ending_of(file)
    if ending == ".zst":
        import pyarrow as pa

        if not file.stat().st_size:
            raise OSError("it is empty, without even the header of a compressed file")
        stream = cast(io.RawIOBase, pa.input_stream(str(file), compression="zstd"))
        return io.BufferedReader(stream, _CHUNK_BYTES)
    if ending in _DECOMPRESSORS:
        return io.BufferedReader(_Streams(file, _DECOMPRESSORS[ending]), _CHUNK_BYTES)
    return file.open("rb", buffering=_BUFFER_BYTES)


class _Gzip:
    """One gzip stream, with its checksum."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 16)

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


class _Streams(io.RawIOBase):
    """The content of compressed streams that stand one after another in a file.

    Each chunk is handed on as it comes, so that what stands before damage is read before that raises.
    """

    def __init__(self, file: Path, make: Callable[[], _Decompressor]) -> None:
        self._handle, self._make = file.open("rb"), make
        self._stream = make()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._next(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._handle.close()
        super().close()

    def _next(self, most_bytes: int) -> bytes:
        """The next bytes of the content; none at the end of the file."""
        while True:
            data = b""
            if self._stream.eof:
                if not (data := self._next_stream()):
                    return b""
                self._stream = self._make()
            elif self._stream.needs_input and not (data := self._handle.read(_CHUNK_BYTES)):
                raise EOFError("it ends within a compressed stream")
            if content := self._stream.decompress(data, most_bytes):
                return content

    def _next_stream(self) -> bytes:
        """The bytes after the stream that has ended, without the padding."""
        data = self._stream.unused_data.lstrip(b"\0")
        while not data and (chunk := self._handle.read(_CHUNK_BYTES)):
            data = chunk.lstrip(b"\0")
        return data
