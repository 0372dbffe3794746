"""A cache of tokenizers as transformers loaded them, by the hash of their files; a hit needs no transformers."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

_READ_BY_TRANSFORMERS = {".jinja", ".json", ".model", ".py", ".tiktoken", ".txt"}
_LIBRARIES = ("tokenizers", "transformers")


def load_cached(folder: Path, code: Iterable[Path], load: Callable[[], bytes]) -> bytes:
    """Return the result of `load` for the tokenizer in `folder`, from the cache if there is one.

    The key covers every file of the folder that transformers may read, the versions of the libraries, and the source
    files in `code`. If the cache cannot be written, the result is not stored.
    """
    file = _cache_folder() / _key(folder, code)
    try:
        return file.read_bytes()
    except OSError:
        content = load()
    with suppress(OSError):  # a read-only home or a full disk
        _write(file, content)
    return content


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "megatron_ipt" / "tokenizers"


def _key(folder: Path, code: Iterable[Path]) -> str:
    digest = hashlib.sha256(" ".join(version(name) for name in _LIBRARIES).encode())
    read = (file for file in folder.iterdir() if file.suffix in _READ_BY_TRANSFORMERS and file.is_file())
    for file in [*sorted(read), *code]:
        content = file.read_bytes()
        digest.update(f"\0{file.name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _write(file: Path, content: bytes) -> None:
    """Write under a unique name, then rename: several processes may load the same tokenizer at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=file.parent)
    with os.fdopen(descriptor, "wb") as temporary:
        temporary.write(content)
    Path(name).replace(file)
