"""Reads the four tables from Parquet and checks everything about them before anybody uses them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.errors import DataError
from candidate_pipeline_feed.problems import InvalidTablesError, Parts, Problem, shown, table_problems
from candidate_pipeline_feed.records import NUMPY_DTYPE, Edges, Events, Items, Tables, Users, null_column
from candidate_pipeline_feed.schema import MAX_ROWS, MAX_TABLE_BYTES, TABLES, ColumnSpec, TableSpec

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

Column = tuple[NDArray[Any], NDArray[np.bool_]]

_WANTED = {
    "int64": "a 64-bit integer",
    "float32": "a floating-point number",
    "bool": "true or false",
    "text": "text",
    "text list": "a list of texts",
    "timestamp": "a timestamp with time zone UTC",
    "choice": "text",
}


def read_tables(directory: str | Path) -> Tables:
    """Read and check the four tables of a directory.

    Args:
        directory: Holds `users.parquet`, `items.parquet`, `edges.parquet` and `events.parquet`.

    Returns:
        The tables; rows keep the order of the files.

    Raises:
        InvalidTablesError: Something is wrong; it names each table, column, row count and an example.
        DataError: There is no such directory.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise DataError(
            f"{directory}: no such data directory; `candidate-pipeline data world --out {directory}` makes one"
        )
    problems: list[Problem] = []
    all_parts: dict[str, Parts] = {}
    ignored: dict[str, tuple[str, ...]] = {}
    for name, spec in TABLES.items():
        parts, extra = _read_table(directory / spec.file_name, spec, problems)
        all_parts[name] = parts
        if extra:
            ignored[name] = extra
    problems += table_problems(all_parts)
    if problems:
        raise InvalidTablesError(str(directory), tuple(problems))
    return Tables(
        Users.from_parts(all_parts["users"]),
        Items.from_parts(all_parts["items"]),
        Edges.from_parts(all_parts["edges"]),
        Events.from_parts(all_parts["events"]),
        ignored=ignored,
    )


def check_tables(tables: Tables, where: str = "tables") -> None:
    """Check tables in memory by the rules of the format.

    Raises:
        InvalidTablesError: Something is wrong.
    """
    all_parts: dict[str, Parts] = {
        table.spec.name: {c.name: (table.column(c.name), table.is_valid(c.name)) for c in table.spec.columns}
        for table in tables.all()
    }
    problems = [*table_problems(all_parts), *_choice_problems(all_parts)]
    if problems:
        raise InvalidTablesError(where, tuple(problems))


def _choice_problems(all_parts: dict[str, Parts]) -> Iterator[Problem]:
    for name, spec in TABLES.items():
        for column in spec.columns:
            if column.type == "choice":
                codes, _valid = all_parts[name][column.name]
                bad = (codes < 0) | (codes >= len(column.choices))
                if bad.any():
                    row = int(np.argmax(bad))
                    message = f"not one of {', '.join(column.choices)}"
                    yield Problem(name, column.name, message, int(bad.sum()), len(bad), shown(codes[row]), row)


def _read_table(path: Path, spec: TableSpec, problems: list[Problem]) -> tuple[Parts, tuple[str, ...]]:
    """Columns that could be read, and names of unknown columns; what could not is added to `problems`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def fault(message: str) -> tuple[Parts, tuple[str, ...]]:
        problems.append(Problem(spec.name, "", message))
        return {}, ()

    if not path.is_file():
        return fault(f"no such file in {path.parent}; all four tables are needed, an empty one included")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            metadata = file.metadata
            if not 0 <= metadata.num_rows <= MAX_ROWS:
                return fault(f"claims {metadata.num_rows:,} rows, wanted 0 to the limit of {MAX_ROWS:,}")
            size = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
            if size > MAX_TABLE_BYTES:
                return fault(f"claims {size:,} bytes uncompressed, more than the limit of {MAX_TABLE_BYTES:,}")
            return _read_columns(file, spec, problems)
    # Damaged footers surface as these, depending on which byte is hit.
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return fault(f"cannot be read as Parquet: {reason}")


def _read_columns(file: pq.ParquetFile, spec: TableSpec, problems: list[Problem]) -> tuple[Parts, tuple[str, ...]]:
    schema = file.schema_arrow
    known = {column.name for column in spec.columns}
    extra = tuple(dict.fromkeys(name for name in schema.names if name not in known))
    rows = file.metadata.num_rows
    parts: dict[str, Column] = {}
    for column in spec.columns:
        count = schema.names.count(column.name)
        if count > 1:
            problems.append(Problem(spec.name, column.name, f"the file has {count} columns of this name"))
        elif count == 0 and column.required:
            found = ", ".join(schema.names) or "none at all"
            problems.append(Problem(spec.name, column.name, f"a required column is missing; the file has {found}"))
        elif count == 0:
            parts[column.name] = null_column(column, rows)
        elif complaint := _wrong_type(column, schema.field(column.name).type):
            problems.append(Problem(spec.name, column.name, complaint))
        else:
            data = file.read(columns=[column.name]).column(0)
            if len(data) != rows:
                complaint = f"has {len(data):,} values, but the file claims {rows:,} rows"
                problems.append(Problem(spec.name, column.name, complaint))
                continue
            part = _to_numpy(spec, column, data, problems)
            if part is not None:
                parts[column.name] = part
    return parts, extra


def _wrong_type(column: ColumnSpec, found: pa.DataType) -> str:
    """Why a column of that Arrow type cannot be used, or ""."""
    import pyarrow.types as pt

    inner = found.value_type if pt.is_dictionary(found) else found
    texts = (pt.is_string, pt.is_large_string, pt.is_string_view)
    hint = ""
    match column.type:
        case "int64":
            good = pt.is_integer(found)
            hint = "; a column with nulls must stay an integer, not become a float" if pt.is_floating(found) else ""
        case "float32":
            good = pt.is_floating(found)
        case "bool":
            good = pt.is_boolean(found)
        case "text" | "choice":
            good = any(test(inner) for test in texts)
        case "text list":
            good = (pt.is_list(found) or pt.is_large_list(found)) and any(test(found.value_type) for test in texts)
        case "timestamp":
            good = pt.is_timestamp(found) and str(found.tz).upper() in {"UTC", "ETC/UTC", "+00:00", "Z"}
            if pt.is_timestamp(found):
                zone = "has no time zone" if found.tz is None else f"is in {found.tz}"
                hint = f"; it {zone}, convert it to UTC"
    # A column of type null is what some writers make of a column with nothing in it.
    good = good or (pt.is_null(found) and column.nullable)
    return "" if good else f"wanted {_WANTED[column.type]}, found {found}{hint}"


def _to_numpy(spec: TableSpec, column: ColumnSpec, data: pa.ChunkedArray, problems: list[Problem]) -> Column | None:
    """Values and validity, or None with a problem noted where a value does not fit its type."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as pt

    if pt.is_null(data.type):
        return null_column(column, len(data))
    try:
        data.validate(full=True)  # offsets and UTF-8, before anybody follows them
    except pa.ArrowInvalid as error:
        problems.append(Problem(spec.name, column.name, f"damaged: {str(error).splitlines()[0]}"))
        return None
    valid = data.is_valid().to_numpy().astype(np.bool_)
    if column.type == "choice":
        return _choice_codes(spec, column, data, valid, problems)
    if column.type == "text":
        if not pt.is_string(data.type):
            data = data.cast(pa.string())
        return data.to_numpy(zero_copy_only=False), valid
    if column.type == "text list":
        values = np.empty(len(data), dtype=object)
        for row, words in enumerate(data.to_pylist()):
            values[row] = tuple(words or ())
        return values, valid
    try:
        if column.type == "timestamp":
            finer = data.type.unit in {
                "us",
                "ns",
            }  # finer parts of a second are cut off, coarser units must fit
            data = data.cast(pa.timestamp("ms", "UTC"), safe=not finer).cast(pa.int64())
        elif column.type == "int64":
            # Ids of 64 bits without sign keep their bits.
            data = data.cast(pa.int64(), safe=not (column.is_id and pt.is_uint64(data.type)))
    except pa.ArrowInvalid as error:
        problems.append(Problem(spec.name, column.name, f"does not fit its type: {str(error).splitlines()[0]}"))
        return None
    zero = pa.scalar(False) if column.type == "bool" else pa.scalar(0, data.type)
    filled = pc.fill_null(data, zero).to_numpy()
    with np.errstate(over="ignore"):  # a float64 too large for float32 becomes inf, which is told as such
        return filled.astype(NUMPY_DTYPE[column.type]), valid


def _choice_codes(
    spec: TableSpec,
    column: ColumnSpec,
    data: pa.ChunkedArray,
    valid: NDArray[np.bool_],
    problems: list[Problem],
) -> Column:
    """Indices into the column's choices, shape [rows]; unknown names are noted and become invalid."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as pt

    if not pt.is_dictionary(data.type):
        data = data.dictionary_encode()
    data = data.unify_dictionaries().combine_chunks()
    if isinstance(data, pa.ChunkedArray):  # combining nothing leaves it chunked in some versions
        data = data.chunk(0) if data.num_chunks else pa.array([], data.type)
    names = data.dictionary.to_pylist()
    codes = {name: code for code, name in enumerate(column.choices)}
    lookup = np.array([*(codes.get(name, -1) for name in names), -1], dtype=np.int16)
    indices = pc.fill_null(data.indices, len(names)).to_numpy() if names else np.zeros(len(data), dtype=np.int64)
    values = lookup[indices]
    unknown = valid & (values < 0)
    if unknown.any():
        row = int(np.argmax(unknown))
        message = f"not one of {', '.join(column.choices)}"
        problems.append(
            Problem(
                spec.name,
                column.name,
                message,
                int(unknown.sum()),
                len(values),
                shown(names[indices[row]]),
                row,
            )
        )
        # Known to be wrong and told: later checks must not tell it again as a null.
        values = np.where(unknown, -1, values).astype(np.int16)
    return values, valid
