"""The pairs table as Parquet: written in one step, and checked as a whole before anybody uses it.

The columns are described in docs/stakeholders.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.errors import DataError
from candidate_pipeline_stakeholder.files import placed_file
from candidate_pipeline_stakeholder.pairs import LARGEST, NO_TIME, Pairs
from candidate_pipeline_stakeholder.utilities import (
    MAX_FEATURES,
    MAX_STAKEHOLDERS,
    feature_problem,
    stakeholder_problem,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

FORMAT_VERSION: Final = "1"
LEFT: Final = "left."
RIGHT: Final = "right."
OUTCOMES: Final[dict[str, int]] = {"left": 1, "right": -1, "tie": 0}
"""What the column `preferred` may hold, and the outcome that it stands for."""

MAX_ROWS: Final = 20_000_000
"""More pairs than this are taken for a mistake."""
MAX_BYTES: Final = 4 * 2**30
"""Size in memory above which a table is not even opened."""
MAX_COLUMNS: Final = 4096
MAX_RATER_CHARS: Final = 200
_LISTED: Final = 20
_FIRST_MS: Final = int(np.datetime64("1800-01-01", "ms").astype(np.int64))
_LAST_MS: Final = int(np.datetime64("2200-01-01", "ms").astype(np.int64))


def write_pairs(path: str | Path, pairs: Pairs) -> None:
    """Write a pairs table (Parquet, zstd); the same pairs give the same bytes with the same library version.

    Columns that say nothing are left out: weights that are all 1, times, raters and items that are unknown.

    Raises:
        DataError: A name or a time cannot be written; a reader would refuse it.
        OSError: The place cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    _check_writable(Path(path), pairs)
    columns: dict[str, Any] = {"stakeholder": _texts(pairs.stakeholders, pairs.stakeholder)}
    for place, name in enumerate(pairs.features):
        columns[LEFT + name] = pa.array(np.ascontiguousarray(pairs.left[:, place]))
        columns[RIGHT + name] = pa.array(np.ascontiguousarray(pairs.right[:, place]))
    columns["preferred"] = _texts(("right", "tie", "left"), pairs.outcome.astype(np.int32) + 1)
    if (pairs.weight != 1).any():
        columns["weight"] = pa.array(pairs.weight)
    if (known := pairs.time != NO_TIME).any():
        columns["time"] = pa.array(pairs.time, pa.int64(), mask=~known).cast(pa.timestamp("ms", "UTC"))
    if (pairs.rater >= 0).any():
        columns["rater"] = _texts((*pairs.raters, None), pairs.rater)
    if pairs.left_item is not None and pairs.right_item is not None:
        columns["left_item"], columns["right_item"] = pa.array(pairs.left_item), pa.array(pairs.right_item)
    metadata = {"candidate_pipeline.table": "pairs", "candidate_pipeline.format": FORMAT_VERSION}
    table = pa.table(columns).replace_schema_metadata(metadata)
    with placed_file(path) as made:
        pq.write_table(table, made, compression="zstd", write_page_checksum=True)


def _texts(names: Iterable[str | None], codes: NDArray[np.integer[Any]]) -> pa.Array:
    import pyarrow as pa

    return pa.array(np.array([*names], dtype=object)[codes] if len(codes) else [], pa.string())


def _check_writable(path: Path, pairs: Pairs) -> None:
    found = [f"feature: {told}" for name in pairs.features if (told := feature_problem(name))]
    found += [f"stakeholder: {told}" for name in pairs.stakeholders if (told := stakeholder_problem(name))]
    found += [
        f"rater: wanted at most {MAX_RATER_CHARS} characters, found {name[:40]!r}…"
        for name in pairs.raters
        if len(name) > MAX_RATER_CHARS
    ]
    if not 1 <= len(pairs.features) <= MAX_FEATURES:
        found.append(f"wanted 1 to {MAX_FEATURES} features, found {len(pairs.features)}")
    if len(pairs.stakeholders) > MAX_STAKEHOLDERS:
        found.append(f"wanted at most {MAX_STAKEHOLDERS} stakeholders, found {len(pairs.stakeholders)}")
    if len(pairs) > MAX_ROWS or _size(len(pairs), len(pairs.features)) > MAX_BYTES:
        found.append(f"wanted at most {MAX_ROWS:,} pairs and {MAX_BYTES:,} bytes, found {len(pairs):,} pairs")
    strange = (pairs.time != NO_TIME) & ((pairs.time < _FIRST_MS) | (pairs.time > _LAST_MS))
    if strange.any():
        row = int(np.argmax(strange))
        found.append(f"time: row {row}: wanted milliseconds of a day from 1800 to 2200, found {pairs.time[row]}")
    if found:
        raise DataError(
            f"{path}: these pairs cannot be written\n" + "\n".join(f"  - {line}" for line in found[:_LISTED])
        )


def _size(rows: int, features: int) -> int:
    """Bytes of the sides of so many pairs in memory."""
    return rows * features * 16


def read_pairs(path: str | Path) -> Pairs:
    """Read and check a pairs table.

    Args:
        path: A Parquet file with the columns `stakeholder`, `preferred`, `left.NAME` and `right.NAME` for each
            feature, and optionally `weight`, `time`, `rater`, `left_item` and `right_item`. Others are ignored.

    Raises:
        DataError: It is missing, damaged, too large or wrong; all mistakes at once, with column, row, what was
            wanted and what was found.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; `candidate-pipeline stakeholder pairs --out {path}` makes one from logged events"
        )
    reader = _Reader(path)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return reader.pairs(file)
    # Damaged files surface as these, depending on which byte is hit.
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: cannot be read as Parquet: {reason}") from error


@attrs.define(eq=False)
class _Reader:
    """Collects every mistake of a file on the way to its pairs."""

    path: Path
    problems: list[str] = attrs.field(factory=list)

    def pairs(self, file: pq.ParquetFile) -> Pairs:
        features = self._header(file)
        read = _Columns(file, self.problems)
        stakeholder = read.text("stakeholder")
        outcome = self._outcome(read)
        for name in stakeholder.names if stakeholder is not None else ():
            if told := stakeholder_problem(name):
                self._row("stakeholder", stakeholder, name, told)
        if stakeholder is not None and len(stakeholder.names) > MAX_STAKEHOLDERS:
            self.problems.append(
                f"stakeholder: wanted at most {MAX_STAKEHOLDERS} stakeholders, found {len(stakeholder.names)}"
            )
        sides = {side: [read.number(side + name, -LARGEST, LARGEST) for name in features] for side in (LEFT, RIGHT)}
        weight = read.number("weight", 0.0, LARGEST, above=True) if read.has("weight") else None
        time = read.time("time") if read.has("time") else None
        rater = read.text("rater", nullable=True) if read.has("rater") else None
        for name in rater.names if rater is not None else ():
            if len(name) > MAX_RATER_CHARS or not name:
                self._row("rater", rater, name, f"wanted 1 to {MAX_RATER_CHARS} characters, found {len(name)}")
        items = [read.whole(name) if read.has(name) else None for name in ("left_item", "right_item")]
        if read.has("left_item") != read.has("right_item"):
            self.problems.append("left_item, right_item: wanted both columns or neither, found one")
        self.stop()
        if stakeholder is None or outcome is None:  # then something above has been told
            raise AssertionError("a column is missing without a mistake")
        rows = len(outcome)
        left, right = (
            _beside([column for column in sides[side] if column is not None], rows) for side in (LEFT, RIGHT)
        )
        try:
            return Pairs.of(
                features,
                left,
                right,
                outcome,
                weight=weight,
                stakeholder=stakeholder.listed(),
                rater=None if rater is None else rater.listed(),
                time=time,
                left_item=items[0],
                right_item=items[1],
            )
        except DataError as error:  # all should have been told above; never let one pass without the file's name
            raise DataError(f"{self.path}: {error}") from None

    def stop(self) -> None:
        """Raise what was found so far, if anything was."""
        if self.problems:
            more = len(self.problems) - _LISTED
            lines = [*self.problems[:_LISTED], *([f"and {more} more"] if more > 0 else [])]
            raise DataError(
                f"{self.path}: not a table of pairs\n"
                + "\n".join(f"  - {line}" for line in lines)
                + "\nThe columns are described in docs/stakeholders.md."
            )

    def _header(self, file: pq.ParquetFile) -> tuple[str, ...]:
        """The features, once the size is known to be sane."""
        metadata, names = file.metadata, file.schema_arrow.names
        rows = metadata.num_rows
        if not 0 <= rows <= MAX_ROWS:
            self.problems.append(f"wanted 0 to {MAX_ROWS:,} rows, found a claim of {rows:,}")
        if len(names) > MAX_COLUMNS:
            self.problems.append(f"wanted at most {MAX_COLUMNS:,} columns, found {len(names):,}")
            self.stop()
        size = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
        left = [name.removeprefix(LEFT) for name in names if name.startswith(LEFT)]
        right = [name.removeprefix(RIGHT) for name in names if name.startswith(RIGHT)]
        if max(size, _size(rows, len(left))) > MAX_BYTES:
            self.problems.append(
                f"wanted at most {MAX_BYTES:,} bytes, found a claim of {max(size, _size(rows, len(left))):,}"
            )
        for name in dict.fromkeys(left):
            if told := feature_problem(name):
                self.problems.append(f"{LEFT}{name}: {told}")
        self.problems += [
            f"{RIGHT}{name}: wanted for {LEFT}{name}, found no such column" for name in left if name not in right
        ]
        self.problems += [
            f"{LEFT}{name}: wanted for {RIGHT}{name}, found no such column" for name in right if name not in left
        ]
        if not 1 <= len(left) <= MAX_FEATURES:
            listed = ", ".join(names[:_LISTED]) or "none"
            self.problems.append(f"wanted 1 to {MAX_FEATURES} columns {LEFT}NAME, found {len(left)} among {listed}")
        self.stop()
        return tuple(left)

    def _outcome(self, read: _Columns) -> NDArray[np.int8] | None:
        found = read.text("preferred")
        if found is None:
            return None
        for name in found.names:
            if name not in OUTCOMES:
                self._row("preferred", found, name, f"wanted {', '.join(OUTCOMES)}, found {name[:40]!r}")
        places = np.array([OUTCOMES.get(name, 0) for name in found.names] or [0], np.int8)
        return np.asarray(places[found.codes])

    def _row(self, column: str, found: _Texts | None, name: str, told: str) -> None:
        """Tell of a text with the first row that has it."""
        if found is not None:
            row = int(np.argmax(found.codes == found.names.index(name)))
            self.problems.append(f"{column}, row {row}: {told}")


def _beside(columns: list[NDArray[np.float64]], rows: int) -> NDArray[np.float64]:
    return np.column_stack(columns) if rows else np.zeros((0, len(columns)))


@attrs.frozen(eq=False)
class _Texts:
    """A column of texts: names, and each row's place among them, -1 for null."""

    names: list[str]
    codes: NDArray[np.int64]

    def listed(self) -> list[Any]:
        return list(np.array([*self.names, None], dtype=object)[self.codes])


@attrs.define(eq=False)
class _Columns:
    """Reads columns by name; what is wrong is added to `problems` and gives `None`."""

    file: pq.ParquetFile
    problems: list[str]

    def has(self, name: str) -> bool:
        return name in self.file.schema_arrow.names

    def _column(self, name: str, wanted: str, fits: Any, nullable: bool = False) -> pa.ChunkedArray | None:
        import pyarrow as pa

        names = self.file.schema_arrow.names
        if names.count(name) != 1:
            found = "no such column" if name not in names else f"{names.count(name)} columns of that name"
            self.problems.append(f"{name}: wanted {wanted}, found {found}")
            return None
        kind = self.file.schema_arrow.field(name).type
        inner = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not fits(inner):
            self.problems.append(f"{name}: wanted {wanted}, found a column of {kind}")
            return None
        data = self.file.read(columns=[name]).column(name)  # by name: a name with a dot may bring others along
        if len(data) != self.file.metadata.num_rows:
            told = f"wanted {self.file.metadata.num_rows:,} values, as the file claims, found {len(data):,}"
            self.problems.append(f"{name}: {told}")
            return None
        try:
            data.validate(full=True)  # offsets and UTF-8, before anybody follows them
        except pa.ArrowInvalid as error:
            self.problems.append(f"{name}: damaged: {str(error).splitlines()[0]}")
            return None
        if data.null_count and not nullable:
            row = int(np.argmax(data.is_null().to_numpy()))
            self.problems.append(f"{name}, row {row}: wanted {wanted}, found null ({data.null_count:,} rows)")
            return None
        return data

    def text(self, name: str, nullable: bool = False) -> _Texts | None:
        import pyarrow as pa
        import pyarrow.compute as pc

        texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
        data = self._column(name, "text", lambda kind: any(test(kind) for test in texts), nullable)
        if data is None:
            return None
        if pa.types.is_dictionary(data.type):
            data = data.cast(data.type.value_type)
        if pa.types.is_string_view(data.type):
            data = data.cast(pa.string())
        encoded = data.dictionary_encode().unify_dictionaries()
        names = encoded.chunk(0).dictionary.to_pylist() if encoded.num_chunks else []
        codes = [pc.fill_null(chunk.indices, -1).to_numpy() for chunk in encoded.chunks]
        return _Texts(names, np.concatenate([np.empty(0, np.int64), *codes]).astype(np.int64))

    def number(self, name: str, low: float, high: float, above: bool = False) -> NDArray[np.float64] | None:
        import pyarrow as pa

        wanted = f"a number over {low:g} and at most {high:g}" if above else f"a number from {low:g} to {high:g}"
        data = self._column(name, wanted, lambda kind: pa.types.is_floating(kind) or pa.types.is_integer(kind))
        if data is None:
            return None
        values: NDArray[np.float64] = data.to_numpy().astype(np.float64)
        with np.errstate(invalid="ignore"):
            bad = ~(((values > low) if above else (values >= low)) & (values <= high))
        if bad.any():
            row = int(np.argmax(bad))
            self.problems.append(f"{name}, row {row}: wanted {wanted}, found {values[row]:g} ({bad.sum():,} rows)")
            return None
        return values

    def whole(self, name: str) -> NDArray[np.int64] | None:
        import pyarrow as pa

        data = self._column(name, "an id, a 64-bit integer", pa.types.is_integer)
        if data is None:
            return None
        # Ids of 64 bits without sign keep their bits.
        return np.asarray(data.cast(pa.int64(), safe=not pa.types.is_uint64(data.type)).to_numpy(), np.int64)

    def time(self, name: str) -> NDArray[np.int64] | None:
        import pyarrow as pa
        import pyarrow.compute as pc

        def fits(kind: pa.DataType) -> bool:
            return pa.types.is_timestamp(kind) and str(kind.tz).upper() in {"UTC", "ETC/UTC", "+00:00", "Z"}

        data = self._column(name, "a timestamp with time zone UTC", fits, nullable=True)
        if data is None:
            return None
        known = data.is_valid().to_numpy().astype(np.bool_)
        # Parquet has no coarser unit than this; finer parts are cut off.
        data = data.cast(pa.timestamp("ms", "UTC"), safe=False).cast(pa.int64())
        values = np.asarray(pc.fill_null(data, 0).to_numpy(), np.int64)
        bad = known & ((values < _FIRST_MS) | (values > _LAST_MS))
        if bad.any():
            row = int(np.argmax(bad))
            found = np.datetime64(int(values[row]), "ms")
            self.problems.append(
                f"{name}, row {row}: wanted a time from 1800 to 2200, found {found} ({bad.sum():,} rows)"
            )
            return None
        return np.where(known, values, NO_TIME)
