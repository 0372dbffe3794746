"""Rows of a parquet file, streamed; text that is not UTF-8 makes only its own row unreadable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_ipt.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_ROWS = 64
_BUFFER_BYTES = 1 << 20


def read_columns(
    file: Path, keys: Sequence[str] | None = None, optional_keys: Sequence[str] = ()
) -> Iterator[dict[str, object] | UnicodeDecodeError]:
    """Yield the values of each row under `keys`, or of all columns; `outer.inner` selects a field of a nested column.

    A row whose text is not valid UTF-8 is yielded as the error.

    Raises:
        UserError: the file has no column for one of `keys`; a missing one of `optional_keys` is ignored.
        OSError: the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES) as parquet:
            paths = (parquet.schema.column(number).path for number in range(len(parquet.schema)))
            known = list(dict.fromkeys([*parquet.schema_arrow.names, *paths]))
            if missing := [key for key in keys or () if key not in known]:
                raise UserError(str(file), missing[0], "no column of that name", f"one of: {', '.join(known)}")
            wanted = None if keys is None else [key for key in (*keys, *optional_keys) if key in known]
            for group in range(parquet.num_row_groups):  # one by one, so that the groups before damage are still read
                for batch in parquet.iter_batches(_BATCH_ROWS, [group], wanted):
                    yield from _rows_of(batch)
    except pa.ArrowException as error:
        raise OSError(str(error)) from error


def _rows_of(batch: pa.RecordBatch) -> Iterator[dict[str, object] | UnicodeDecodeError]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError as error:  # pyarrow does not validate UTF-8 in the file, and fails for the whole batch
        if batch.num_rows == 1:
            yield error
            return
        for number in range(batch.num_rows):
            yield from _rows_of(batch.slice(number, 1))
