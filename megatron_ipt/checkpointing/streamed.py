"""Sharded checkpoints of models that are not in memory, written tensor by tensor by several threads.

megatron-core plans the files; here they are written, as it would write them, and hashed on the way. A file that an
interrupted attempt has finished is kept.
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.storage import WriteResult

from megatron_ipt.checkpointing.contents import record_files
from megatron_ipt.checkpointing.pickles import METADATA_NAME, read_metadata
from megatron_ipt.checkpointing.weights import ASYNC_STRATEGY, ReadPart, pieces_of
from megatron_ipt.corpus.finished_files import Finished, FinishedFiles
from megatron_ipt.corpus.manifest import FileRecord
from megatron_ipt.observability.progress import ProgressDisplay

FILE_BYTES = 500 * 10**6
"""Size of a file, unless a single tensor is larger: about what an interruption costs."""
_THREADS = 2
_LARGE_BYTES = 2**30
"""Of tensors larger than this, one at a time is in memory."""
_PLAN_NAME = ".plan"
_POLL_SECONDS = 0.2

Items = list[tuple[Any, Any]]
"""The content of one planned file: torch's write items, each with its object or with a tensor without values."""


@dataclass(frozen=True)
class StreamedModel:
    """A model whose parameters are stored elsewhere.

    Attributes:
        state: by parameter, sharded tensors on the meta device; and sharded objects.
        read: returns the values of a part of a parameter; called by several threads.
        is_clean: returns whether everything that was read so far may be written; no file is finished otherwise.
    """

    state: Mapping[str, Any]
    read: ReadPart
    is_clean: Callable[[], bool] = lambda: True

    def locations(self) -> dict[tuple[str, tuple[int, ...]], tuple[str, int, int]]:
        """Return the arguments of `read` for each tensor that is saved, by its key and offset."""
        return {
            (piece.key, tuple(piece.global_offset)): (name, piece.data.storage_offset(), piece.data.numel())
            for name, entry in self.state.items()
            for piece in pieces_of(entry)
        }

    def size_bytes(self) -> int:
        """Return the size of all tensors."""
        return sum(piece.data.nbytes for entry in self.state.values() for piece in pieces_of(entry))


def write_streamed(
    model: StreamedModel,
    folder: Path,
    finished: FinishedFiles,
    progress: ProgressDisplay,
    common: Mapping[str, Any] | None = None,
) -> list[FileRecord]:
    """Write the sharded checkpoint of `model` into `folder`, in one process; a collective call.

    Args:
        model: the model.
        folder: created if missing; may hold files of an interrupted call with the same arguments.
        finished: the files that such a call has finished, which are kept.
        progress: shows how many bytes are written.
        common: values besides the model, as megatron-core stores them.

    Returns:
        The sizes and hashes of all files, with paths relative to `folder`; nothing if values may not be written.

    Raises:
        OSError: a file cannot be written.
    """
    plan = folder / _PLAN_NAME
    shutil.rmtree(plan, ignore_errors=True)
    plan.mkdir(parents=True)
    request = _prepare(model, plan, common or {})
    _, buckets, results = request.async_fn_args
    files: dict[str, Items] = {name: [*objects, *tensors] for _, name, (objects, tensors) in buckets}
    written = _Writer(model, folder, finished).write_all(files, progress)
    if not model.is_clean():
        return []
    results.put({number: _results(name, files[name], one) for number, (name, one) in enumerate(written.items())})
    for finalize in request.finalize_fns:
        finalize()
    _remove_marks_of_the_save(plan)
    planned = [Path(shutil.move(file, folder / file.name)) for file in sorted(plan.iterdir())]
    plan.rmdir()
    records = [FileRecord(name, one.record.size_bytes, one.record.sha256) for name, one in written.items()]
    records += record_files(folder, planned)
    for file in {path.name for path in folder.iterdir()} - {record.path for record in records}:
        (folder / file).unlink()  # of an attempt by another version
    return sorted(records, key=lambda record: record.path)


class _Writer:
    """Writes the planned files of a model in threads."""

    def __init__(self, model: StreamedModel, folder: Path, finished: FinishedFiles) -> None:
        self._model, self._folder, self._finished = model, folder, finished
        self._locations = model.locations()
        self._large = Lock()
        self._written_bytes: dict[str, int] = {}

    def write_all(self, files: Mapping[str, Items], progress: ProgressDisplay) -> dict[str, Finished]:
        """Write the files that are not finished, and return the record of every file by name.

        After a failure, files that have been begun are completed.
        """
        with ThreadPoolExecutor(max_workers=_THREADS) as threads:
            writing = {name: threads.submit(self._write, name, items) for name, items in files.items()}
            waiting, total = set(writing.values()), self._model.size_bytes()
            try:
                while waiting:
                    done, waiting = wait(waiting, _POLL_SECONDS, FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    if progress.is_due:
                        progress.update(sum(self._written_bytes.copy().values()), total)
            finally:
                threads.shutdown(wait=False, cancel_futures=True)
        progress.complete(total)
        return {name: known for name, future in writing.items() if (known := future.result()) is not None}

    def _write(self, name: str, items: Items) -> Finished | None:
        """Write one file; None if something that was read may not be written."""
        file, keys = self._folder / name, [_key(item) for item, _ in items]
        known = self._finished.find(file)
        if known is not None and [key for key, _ in known.contents] == keys:
            self._written_bytes[name] = known.record.size_bytes
            return known
        ends = []
        with self._finished.writing(file) as written:
            for item, data in items:
                if isinstance(data, BytesIO):
                    written.write(data.getbuffer())
                else:
                    self._write_tensor(item, written)
                ends.append(written.size_bytes)
                self._written_bytes[name] = written.size_bytes
            if not self._model.is_clean():
                return None
            return self._finished.finish(file, written, [list(part) for part in zip(keys, ends, strict=True)])

    def _write_tensor(self, item: Any, written: Any) -> None:  # torch.save is annotated for whole file objects
        chunk = item.tensor_data.chunk
        name, first, count = self._locations[item.index.fqn, tuple(chunk.offsets)]
        is_large = count * item.tensor_data.properties.dtype.itemsize > _LARGE_BYTES
        with self._large if is_large else nullcontext():
            tensor = self._model.read(name, first, count).view(chunk.sizes)
            # torch.save writes the whole storage of a view
            tensor = tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
            torch.save(tensor, written)


def _prepare(model: StreamedModel, plan: Path, common: Mapping[str, Any]) -> AsyncRequest:
    """Have megatron-core plan the files, and write what it stores besides them into the folder `plan`."""
    strategy = TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=max(1, -(-model.size_bytes() // FILE_BYTES)))
    state = {"model": dict(model.state), **common}
    # megatron-core starts a process for the queue of results if there is none
    shared, filesystem_async._results_queue = filesystem_async._results_queue, SimpleQueue()
    try:
        return dist_checkpointing.save(state, str(plan), strategy, async_sharded_save=True, **ASYNC_STRATEGY)
    finally:
        filesystem_async._results_queue = shared


def _key(item: Any) -> list[Any]:
    """Return the name of a tensor or object, and the offset of this part of it, as JSON values."""
    return [item.index.fqn, *(item.index.offset or ())]


def _results(name: str, items: Items, finished: Finished) -> list[WriteResult]:
    """Return torch's records of the parts in the file `name`."""
    ends = [end for _, end in finished.contents]
    return [
        WriteResult(item.index, end - start, _StorageInfo(name, start, end - start))
        for (item, _), start, end in zip(items, [0, *ends], ends, strict=False)
    ]


def _remove_marks_of_the_save(folder: Path) -> None:
    """Remove a path and a random number, which torch notes, so that the same weights give the same bytes."""
    metadata = read_metadata(folder)
    metadata.storage_meta = None
    (folder / METADATA_NAME).write_bytes(pickle.dumps(metadata))
