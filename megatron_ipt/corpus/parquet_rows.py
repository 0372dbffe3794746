"""Rows of a parquet file, streamed; text that is not UTF-8 spoils its row alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from megatron_ipt.errors import UserError

_BATCH_ROWS = 64
_BUFFER_BYTES = 1 << 20


def read_columns(
    file: Path, keys: Sequence[str] | None = None, optional_keys: Sequence[str] = ()
) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    """The values of each row under `keys`, or all of them; `outer.inner` reads a field within a field.

    Raises:
        UserError: there is no column for one of `keys`.
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
            for group in range(parquet.num_row_groups):  # one by one, so that damage to one spares those before it
                for batch in parquet.iter_batches(_BATCH_ROWS, [group], wanted):
                    yield from _rows_of(batch)
    except pa.ArrowException as error:
        raise OSError(str(error)) from error


def _rows_of(batch: Any) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            yield error
            return
        for number in range(batch.num_rows):
            yield from _rows_of(batch.slice(number, 1))
