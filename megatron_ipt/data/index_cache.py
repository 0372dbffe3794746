"""A cache of sample indices on disk: built once per filesystem, and used only if complete.

megatron-core names its index files by what they were built from, and loads any file of that name, complete or not. They
are therefore built in a folder inside the cache, moved to their names, and then listed with their sizes in a stamp
file. Only the stamp counts: after a kill or on a full disk there is none, and the indices are built again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch.distributed as dist

from megatron_ipt.corpus.manifest import write_atomically
from megatron_ipt.errors import UserError
from megatron_ipt.parallel.single_process import acting_as_single_process

_NPY_MAGIC = b"\x93NUMPY"
_PROCESS_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def ensure_indices(cache: Path, identity: Mapping[str, object], build: Callable[[str], object]) -> None:
    """Call `build(folder)` to write the indices that `identity` describes if `cache` lacks them; a collective call.

    Rank 0 checks and builds first. Then the first rank of each node (LOCAL_RANK 0) checks again, and builds what a
    node-local filesystem does not have yet.

    Args:
        cache: the folder of the indices.
        identity: everything that determines their content.
        build: writes all of them into the folder it gets.

    Raises:
        UserError: the cache cannot be written.
    """
    text = json.dumps(identity, sort_keys=True)
    stamp = cache / f"built_{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    if not dist.is_initialized():
        _build_if_missing(cache, stamp, build)
        return
    if dist.get_rank() == 0:
        _build_if_missing(cache, stamp, build)
    dist.barrier()
    if os.environ.get("LOCAL_RANK") == "0":
        _build_if_missing(cache, stamp, build)
    dist.barrier()


def _build_if_missing(cache: Path, stamp: Path, build: Callable[[str], object]) -> None:
    if _is_complete(stamp):
        return
    try:
        cache.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".building_", dir=cache))
    except OSError as error:
        raise _unwritable(cache, error) from error
    try:
        with acting_as_single_process():
            build(str(folder))
        if _is_complete(stamp):
            return  # another process was faster, and a run may already have mapped its files
        sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
        for name in sizes:
            (folder / name).replace(cache / name)
        write_atomically(stamp, json.dumps(sizes, indent=2) + "\n")
    except OSError as error:
        if not _is_of_cache(error, cache):
            raise
        raise _unwritable(cache, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_complete(stamp: Path) -> bool:
    """Return whether all files that `stamp` lists exist in full, as plain arrays.

    megatron-core loads indices with `allow_pickle=True` and would execute a pickle: files that are not .npy are
    rejected.
    """
    if not stamp.is_file():
        return False
    sizes: dict[str, int] = json.loads(stamp.read_text(encoding="utf-8"))
    return all(_is_index(stamp.parent / name, size) for name, size in sizes.items())


def _is_index(file: Path, size_bytes: int) -> bool:
    if not file.is_file() or file.stat().st_size != size_bytes:
        return False
    with file.open("rb") as handle:
        return file.suffix != ".npy" or handle.read(len(_NPY_MAGIC)) == _NPY_MAGIC


def _is_of_cache(error: OSError, cache: Path) -> bool:
    """Return whether an error concerns a file of the cache, and not the data or this process.

    An error of opening a file has its name; an error of a write does not.
    """
    if error.errno in _PROCESS_ERRORS:
        return False
    return error.filename is None or Path(os.fsdecode(error.filename)).absolute().is_relative_to(cache.absolute())


def _unwritable(cache: Path, error: OSError) -> UserError:
    return UserError(
        "data.index_cache", cache, f"it cannot be written: {error}", "choose a writable folder with free space"
    )
