"""The items that stakeholders are compared on: the rows that requests could choose from, with their features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import numpy as np
from numpy.typing import ArrayLike, NDArray

from candidate_pipeline.errors import DataError
from candidate_pipeline_stakeholder.files import placed_file
from candidate_pipeline_stakeholder.moments import Moments

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MAX_VALUE: Final = 1e9
"""Largest magnitude of a feature; sums of squares stay far from overflow."""
MAX_ROWS: Final = 50_000_000
MAX_FEATURES: Final = 10_000
MAX_FILE_BYTES: Final = 8 << 30
UNKNOWN_AUTHOR: Final = -1
UNKNOWN_GROUP: Final = -1
FEATURE_PREFIX: Final = "feature."


@attrs.frozen(eq=False)
class Pool:
    """Rows that requests could choose from; all arrays are read-only.

    Make one with `Pool.of`, which checks.

    Args:
        features: Names of the k features: actions whose probability is predicted, genres, ...
        values: The features, float64 [n, k].
        item_ids: int64 [n].
        request: Which request a row belongs to, an index into `request_ids`, int32 [n].
        request_ids: The requests (or viewers) as they were named, ascending, int64 [r]; each has at least one row.
        groups: Names of what diversity spreads over (topics, genres), sorted.
        group: Index into `groups`, -1 where unknown, int32 [n]. Unknown rows count as one group of their own, so
            that not knowing never looks diverse.
        author: int64 [n], -1 where unknown.
        score: What the row was served with, float64 [n], NaN where unknown.
        selected: Whether it was shown, bool [n].
    """

    features: tuple[str, ...]
    values: NDArray[np.float64]
    item_ids: NDArray[np.int64]
    request: NDArray[np.int32]
    request_ids: NDArray[np.int64]
    groups: tuple[str, ...]
    group: NDArray[np.int32]
    author: NDArray[np.int64]
    score: NDArray[np.float64]
    selected: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        features: Sequence[str],
        values: ArrayLike,
        *,
        item_ids: ArrayLike | None = None,
        request: ArrayLike | None = None,
        groups: Sequence[str] | None = None,
        group: ArrayLike | Sequence[str | None] | None = None,
        author: ArrayLike | None = None,
        score: ArrayLike | None = None,
        selected: ArrayLike | None = None,
    ) -> Pool:
        """Check and keep.

        Args:
            features: Names, k of them, no two alike.
            values: [n, k], finite, at least one row.
            item_ids: [n]; `None`: 0, 1, 2, ...
            request: [n], any integers; `None`: all rows are of one request.
            groups: Names that `group` counts from, where `group` holds numbers.
            group: [n]: a name (or `None`) a row, or with `groups` an index (or -1); `None`: unknown.
            author: [n]; `None`: unknown.
            score: [n], NaN where unknown; `None`: unknown.
            selected: [n]; `None`: none was shown.

        Raises:
            DataError: Something does not fit; it names the row and the feature.
        """
        names = _names(features)
        table = np.array(values, np.float64)
        if table.ndim != 2 or table.shape[1] != len(names):
            raise DataError(f"pool: wanted values [rows, {len(names)}] for {len(names)} features, found {table.shape}")
        rows = len(table)
        if not rows:
            raise DataError("pool: wanted at least one row, found none; collect from a request that has candidates")
        if rows > MAX_ROWS:
            raise DataError(f"pool: found {rows:,} rows, more than the limit of {MAX_ROWS:,}; take a sample")
        bad = ~(np.abs(table) <= MAX_VALUE)
        if bad.any():
            row, column = (int(at) for at in np.argwhere(bad)[0])
            raise DataError(
                f"pool: row {row}, feature {names[column]!r}: wanted a finite number within ±{MAX_VALUE:g}, "
                f"found {table[row, column]}; leave out rows without predictions"
            )
        ids = _integers("item_ids", item_ids, rows) if item_ids is not None else np.arange(rows, dtype=np.int64)
        asked = _integers("request", request, rows) if request is not None else np.zeros(rows, np.int64)
        request_ids, codes = np.unique(asked, return_inverse=True)
        group_names, group_codes = _grouped(groups, group, rows)
        authors = np.full(rows, UNKNOWN_AUTHOR, np.int64) if author is None else _integers("author", author, rows)
        scores = np.full(rows, np.nan) if score is None else np.array(score, np.float64)
        shown = np.zeros(rows, np.bool_) if selected is None else np.array(selected)
        for what, array in (("score", scores), ("selected", shown)):
            if array.shape != (rows,):
                raise DataError(f"pool: wanted {rows} values of {what}, found shape {array.shape}")
        if shown.dtype != np.bool_:
            raise DataError(f"pool: wanted true or false for selected, found {shown.dtype}")
        if np.isinf(scores).any():
            raise DataError(f"pool: row {int(np.argmax(np.isinf(scores)))}: the score is infinite; NaN means unknown")
        made = cls(
            names,
            table,
            ids,
            codes.astype(np.int32).reshape(-1),
            request_ids,
            group_names,
            group_codes,
            authors,
            scores,
            shown,
        )
        for array in (made.values, made.item_ids, made.request, made.request_ids, made.group, authors, scores, shown):
            array.flags.writeable = False
        return made

    def __len__(self) -> int:
        return len(self.values)

    @property
    def request_count(self) -> int:
        """How many requests there are, at least 1."""
        return len(self.request_ids)

    def requests(self) -> Iterator[NDArray[np.intp]]:
        """Row indices of each request, in the order of `request_ids`."""
        order = np.argsort(self.request, kind="stable")
        ends = np.cumsum(np.bincount(self.request, minlength=self.request_count))[:-1]
        yield from np.split(order, ends)

    def take(self, rows: ArrayLike) -> Pool:
        """The rows with these indices, or where a mask is true.

        Raises:
            DataError: No row would be left.
        """
        at = np.asarray(rows)
        at = np.flatnonzero(at) if at.dtype == np.bool_ else at.astype(np.intp)
        return Pool.of(
            self.features,
            self.values[at],
            item_ids=self.item_ids[at],
            request=self.request_ids[self.request[at]],
            groups=self.groups,
            group=self.group[at],
            author=self.author[at],
            score=self.score[at],
            selected=self.selected[at],
        )

    def select(self, features: Sequence[str]) -> Pool:
        """The same rows with these features in this order; a feature that the pool lacks is 0 everywhere."""
        names = _names(features)
        values = np.zeros((len(self), len(names)))
        for column, name in enumerate(names):
            if name in self.features:
                values[:, column] = self.values[:, self.features.index(name)]
        values.flags.writeable = False
        return attrs.evolve(self, features=names, values=values)

    def utilities(self, weights: ArrayLike) -> NDArray[np.float64]:
        """Utility w . p of each row: float64 [n] for weights [k], float64 [n, s] for weights [s, k]."""
        vectors = np.asarray(weights, np.float64)
        if vectors.shape[-1:] != (len(self.features),):
            raise DataError(f"pool: wanted {len(self.features)} weights a stakeholder, found shape {vectors.shape}")
        return np.asarray(self.values @ vectors.T, np.float64)

    def moments(self, within: bool = False) -> Moments:
        """Mean and population covariance of the features.

        Args:
            within: Among the rows of one request, averaged over requests with equal weight (what a ranker chooses
                among); else over all rows.
        """
        if not within:
            mean = self.values.mean(axis=0)
            centred = self.values - mean
            return Moments.of(mean, centred.T @ centred / len(self), len(self))
        counts = np.bincount(self.request, minlength=self.request_count).astype(np.float64)
        sums = np.zeros((self.request_count, len(self.features)))
        np.add.at(sums, self.request, self.values)
        means = sums / counts[:, None]
        # A row weighs 1 / (rows of its request * requests): every request counts the same.
        centred = (self.values - means[self.request]) / np.sqrt(counts * self.request_count)[self.request][:, None]
        return Moments.of(means.mean(axis=0), centred.T @ centred, len(self))

    def write(self, path: str | Path) -> None:
        """Write as Parquet (zstd), beside its place and then renamed.

        Columns: `item_id`, `request`, `group`, `author`, `score`, `selected` and `feature.NAME` for each feature.

        Raises:
            OSError: It cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = np.array([*self.groups, None], dtype=object)  # index -1 is the None
        columns: dict[str, Any] = {
            "item_id": pa.array(self.item_ids),
            "request": pa.array(self.request_ids[self.request]),
            "group": pa.array(names[self.group], pa.string()),
            "author": pa.array(self.author, mask=self.author == UNKNOWN_AUTHOR),
            "score": pa.array(self.score, mask=np.isnan(self.score)),
            "selected": pa.array(self.selected),
        }
        for column, name in enumerate(self.features):
            columns[FEATURE_PREFIX + name] = pa.array(np.ascontiguousarray(self.values[:, column]))
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with placed_file(path) as made:
            pq.write_table(pa.table(columns), made, compression="zstd", write_page_checksum=True)

    @classmethod
    def read(cls, path: str | Path) -> Pool:
        """Read Parquet with at least one column `feature.NAME`; the others are optional.

        Raises:
            DataError: It is missing, damaged, too large or does not fit; it names the file and the column.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = Path(path)
        if path.is_dir():
            raise DataError(
                f"{path}: wanted a file that holds a pool, found a folder; --captures takes recorded requests"
            )
        if not path.is_file():
            raise DataError(f"{path}: no such file; `candidate-pipeline stakeholder audit --help` says how to make one")
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                return _read(file, path)
        except DataError as error:
            raise error if str(path) in str(error) else DataError(f"{path}: {error}") from None
        except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError, MemoryError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"{path}: cannot be read as Parquet: {reason}") from error


def _names(features: Sequence[str]) -> tuple[str, ...]:
    names = tuple(features)
    if isinstance(features, str) or not names or not all(names):
        raise DataError(f"pool: wanted names of features, found {features!r}")
    if len(names) > MAX_FEATURES:
        raise DataError(f"pool: found {len(names):,} features, more than the limit of {MAX_FEATURES:,}")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"pool: feature {twice!r} is named twice")
    return names


def _integers(what: str, values: ArrayLike, rows: int) -> NDArray[np.int64]:
    found = np.asarray(values)
    if found.shape != (rows,) or found.dtype.kind not in "iu":
        raise DataError(f"pool: wanted {rows} integers of {what}, found {found.dtype} of shape {found.shape}")
    return np.array(found, np.int64)


def _grouped(
    groups: Sequence[str] | None, group: ArrayLike | Sequence[str | None] | None, rows: int
) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Names, sorted and each in use, and codes."""
    if group is None:
        return (), np.full(rows, UNKNOWN_GROUP, np.int32)
    if groups is None:
        labels = np.array(group, dtype=object)
        if labels.shape != (rows,):
            raise DataError(f"pool: wanted {rows} groups, found shape {labels.shape}")
        strange = [row for row, label in enumerate(labels) if not (label is None or isinstance(label, str))]
        if strange:
            row = strange[0]
            raise DataError(f"pool: row {row}: wanted the name of a group or None, found {labels[row]!r}")
    else:
        codes = _integers("group", np.asarray(group), rows)
        if ((codes < UNKNOWN_GROUP) | (codes >= len(groups))).any():
            raise DataError(f"pool: wanted groups from -1 to {len(groups) - 1}, found {codes.min()} to {codes.max()}")
        labels = np.array([*groups, None], dtype=object)[codes]
    known = np.array([label is not None for label in labels])
    made = np.full(rows, UNKNOWN_GROUP, np.int32)
    names, codes = np.unique(labels[known].astype(str), return_inverse=True)
    made[known] = codes
    return tuple(str(name) for name in names), made


def _read(file: pq.ParquetFile, path: Path) -> Pool:
    metadata = file.metadata
    if not 1 <= metadata.num_rows <= MAX_ROWS:
        raise DataError(f"{path}: claims {metadata.num_rows:,} rows, wanted 1 to the limit of {MAX_ROWS:,}")
    size = sum(metadata.row_group(at).total_byte_size for at in range(metadata.num_row_groups))
    if size > MAX_FILE_BYTES:
        raise DataError(f"{path}: claims {size:,} bytes uncompressed, more than the limit of {MAX_FILE_BYTES:,}")
    there = file.schema_arrow.names
    if len(set(there)) != len(there):
        raise DataError(f"{path}: two columns have one name")
    features = [name for name in there if name.startswith(FEATURE_PREFIX)]
    if not features:
        raise DataError(f"{path}: wanted columns {FEATURE_PREFIX}NAME, found {', '.join(there) or 'none'}")

    def column(name: str, kind: str, null: Any) -> Any:
        if name not in there:
            return None
        return _numbers(file.read(columns=[name]).column(0), f"{path}: column {name!r}", kind, null)

    values = np.empty((metadata.num_rows, len(features)))
    for at, name in enumerate(features):
        values[:, at] = column(name, "a number", None)
    return Pool.of(
        [name.removeprefix(FEATURE_PREFIX) for name in features],
        values,
        item_ids=column("item_id", "an integer", None),
        request=column("request", "an integer", None),
        group=column("group", "text", None),
        author=column("author", "an integer", UNKNOWN_AUTHOR),
        score=column("score", "a number", np.nan),
        selected=column("selected", "true or false", None),
    )


def _numbers(data: pa.ChunkedArray, where: str, kind: str, null: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    found = data.type
    fits = {
        "a number": pa.types.is_floating(found) or pa.types.is_integer(found),
        "an integer": pa.types.is_integer(found),
        "text": pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_dictionary(found),
        "true or false": pa.types.is_boolean(found),
    }
    if not fits[kind]:
        raise DataError(f"{where}: wanted {kind}, found {found}")
    if kind == "text":
        return data.to_pylist()
    if data.null_count:
        if null is None:
            raise DataError(f"{where}: {data.null_count:,} values are null, wanted {kind} in every row")
        data = pc.fill_null(data, pa.scalar(null, found))
    target = {"a number": pa.float64(), "an integer": pa.int64(), "true or false": pa.bool_()}[kind]
    return data.cast(target).to_numpy()
