"""Writes the four tables as Parquet, the same bytes for the same tables and library version."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from candidate_pipeline_feed.reading import check_tables
from candidate_pipeline_feed.records import Edges, Events, Items, Tables, Users
from candidate_pipeline_feed.schema import FORMAT_VERSION, ColumnSpec

if TYPE_CHECKING:
    import pyarrow as pa


def write_tables(directory: str | Path, tables: Tables) -> None:
    """Write four Parquet files (zstd) into a directory, which is made if need be.

    The same tables give the same bytes on one machine. Each file is written beside its place and renamed, so
    a reader never sees half of one.

    Raises:
        InvalidTablesError: The tables break the format; nothing is written.
        OSError: The directory cannot be written.
    """
    directory = Path(directory)
    check_tables(tables, "the tables to write")
    directory.mkdir(parents=True, exist_ok=True)
    for table in tables.all():
        _write(directory / table.spec.file_name, table)


def _write(path: Path, table: Users | Items | Edges | Events) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = to_arrow(table)
    # Sorted ids and times shrink most as differences; texts and choices as a dictionary.
    delta = [field.name for field in arrow.schema if pa.types.is_timestamp(field.type)]
    named = [field.name for field in arrow.schema if field.name not in delta]
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        pq.write_table(
            arrow,
            temporary,
            compression="zstd",
            compression_level=19,
            use_dictionary=named,
            column_encoding=dict.fromkeys(delta, "DELTA_BINARY_PACKED"),
            write_page_checksum=True,
        )
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def to_arrow(table: Users | Items | Edges | Events) -> pa.Table:
    """A table as Arrow, with the types of the format."""
    import pyarrow as pa

    arrays = [_to_arrow(spec, table.column(spec.name), table.is_valid(spec.name)) for spec in table.spec.columns]
    fields = [
        pa.field(spec.name, array.type, nullable=spec.nullable)
        for spec, array in zip(table.spec.columns, arrays, strict=True)
    ]
    metadata = {"candidate_pipeline.table": table.spec.name, "candidate_pipeline.format": FORMAT_VERSION}
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata))


def _to_arrow(spec: ColumnSpec, values: np.ndarray[Any, Any], valid: np.ndarray[Any, Any]) -> pa.Array:
    import pyarrow as pa

    match spec.type:
        case "text":
            return pa.array(values, pa.string(), from_pandas=False)
        case "text list":
            rows = [list(words) if there else None for words, there in zip(values, valid, strict=True)]
            return pa.array(rows, pa.list_(pa.string()))
        case "choice":
            names = np.array(spec.choices, dtype=object)[values] if len(values) else values.astype(object)
            return pa.array(names, pa.string())
        case "timestamp":
            return pa.array(values, pa.int64(), mask=~valid).cast(pa.timestamp("ms", "UTC"))
        case "bool":
            return pa.array(values, pa.bool_(), mask=~valid)
        case "float32":
            return pa.array(values, pa.float32(), mask=~valid)
        case _:
            return pa.array(values, pa.int64(), mask=~valid)
