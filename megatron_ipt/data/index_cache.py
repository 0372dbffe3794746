"""Sample indices on disk: built once on each filesystem, found whole or not at all.

megatron-core names its index files by what they were built from and takes any that has the name. They are therefore
built in a folder beside, moved into the cache, and then listed with their sizes in a stamp, which is what counts: after
a kill or on a full disk there is no stamp, and the indices are built again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist

from megatron_ipt.corpus.manifest import write_atomically
from megatron_ipt.errors import UserError
from megatron_ipt.parallel.alone import acting_alone

_NPY_MAGIC = b"\x93NUMPY"


def provide_indices(cache: Path, identity: Mapping[str, Any], build: Callable[[str], object]) -> None:
    """Have `build(folder)` write the indices that `identity` describes where `cache` lacks them; a collective call.

    The first rank of all begins. Then the first rank of each node (LOCAL_RANK 0) looks, and builds what a filesystem of
    its own does not have yet.

    Raises:
        UserError: the cache cannot be written.
    """
    text = json.dumps(identity, sort_keys=True)
    stamp = cache / f"built_{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    if not dist.is_initialized():
        _build_where_lacking(cache, stamp, build)
        return
    if dist.get_rank() == 0:
        _build_where_lacking(cache, stamp, build)
    dist.barrier()
    if os.environ.get("LOCAL_RANK") == "0":
        _build_where_lacking(cache, stamp, build)
    dist.barrier()


def _build_where_lacking(cache: Path, stamp: Path, build: Callable[[str], object]) -> None:
    if _is_whole(stamp):
        return
    try:
        cache.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".building_", dir=cache))
    except OSError as error:
        raise _unwritable(cache, error) from error
    try:
        with acting_alone():
            build(str(folder))
        if _is_whole(stamp):
            return  # another process was faster, and a run may already be reading its files
        sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
        for name in sizes:
            (folder / name).replace(cache / name)
        write_atomically(stamp, json.dumps(sizes, indent=2) + "\n")
    except OSError as error:
        raise _unwritable(cache, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_whole(stamp: Path) -> bool:
    """Whether all files that `stamp` lists are there in full.

    megatron-core would unpickle an index that is not a plain array: those are not taken.
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


def _unwritable(cache: Path, error: OSError) -> UserError:
    return UserError("data.index_cache", cache, f"it cannot be written: {error}", "name a folder with room")
