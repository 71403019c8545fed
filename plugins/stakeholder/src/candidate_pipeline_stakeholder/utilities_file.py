"""The utilities file: TOML, written for people to read and change, and checked as a whole when read."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from candidate_pipeline.errors import DataError
from candidate_pipeline_stakeholder.moments import Moments
from candidate_pipeline_stakeholder.utilities import (
    MAX_FEATURES,
    MAX_STAKEHOLDERS,
    MAX_WEIGHT,
    Utilities,
    feature_problem,
    stakeholder_problem,
)

if TYPE_CHECKING:
    from tomlkit.items import Array

SCHEMA: Final = 1
MAX_BYTES: Final = 8 * 2**20
"""A larger file is not even read."""
_MAX_DEPTH: Final = 6
_SHOWN: Final = 60


def utilities_toml(utilities: Utilities) -> str:
    """The text of a utilities file.

    Raises:
        DataError: What `fits` holds is not plain data.
    """
    import tomlkit

    document = tomlkit.document()
    document.add(
        tomlkit.comment("What each stakeholder values: weight per feature. Described in docs/stakeholders.md.")
    )
    document["schema"] = SCHEMA
    features = _array(utilities.features)
    document["features"] = features.multiline(True)
    stakeholders = tomlkit.table(is_super_table=True)
    for name, row in zip(utilities.names, utilities.weights, strict=True):
        weights = tomlkit.table()
        for feature, weight in zip(utilities.features, row.tolist(), strict=True):
            if weight or not row.any():  # a stakeholder that values nothing still has a table
                weights[feature] = weight
        entry = tomlkit.table(is_super_table=True)
        entry["weights"] = weights
        if name in utilities.fits:
            entry["fit"] = _plain(f"fits.{name}", utilities.fits[name], 0)
        stakeholders[name] = entry
    document["stakeholders"] = stakeholders
    if utilities.pool is not None:
        pool = tomlkit.table()
        pool["rows"] = utilities.pool.rows
        pool["mean"] = _array(utilities.pool.mean.tolist())
        covariance = tomlkit.array()
        for row in utilities.pool.covariance.tolist():
            covariance.append(_array(row))
        pool["covariance"] = covariance.multiline(True)
        document["pool"] = pool
    return tomlkit.dumps(document)


def _array(values: Any) -> Array:
    import tomlkit

    array = tomlkit.array()
    array.extend(values)
    return array


def _plain(where: str, value: Any, depth: int) -> Any:
    """A value as TOML has it: `None` is left out of tables, and is not a number (nan) in lists."""
    if depth > _MAX_DEPTH:
        raise DataError(f"{where}: nested more than {_MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        return {str(key): _plain(f"{where}.{key}", part, depth + 1) for key, part in value.items() if part is not None}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [math.nan if part is None else _plain(where, part, depth + 1) for part in value]
    if isinstance(value, bool | int | float | str):
        return value
    raise DataError(f"{where}: wanted plain data (numbers, texts, lists, tables), found {type(value).__name__}")


def read_utilities(path: Path) -> Utilities:
    """Read and check a utilities file.

    Raises:
        DataError: See `Utilities.read`.
    """
    return parse_utilities(content_of(path), path)


def content_of(path: Path) -> bytes:
    """What a utilities file holds.

    Raises:
        DataError: It cannot be read, or is too large.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file; `candidate-pipeline stakeholder learn PAIRS --out {path}` makes one"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise DataError(f"{path}: wanted a file of at most {MAX_BYTES:,} bytes, found a larger one")
    return raw


def parse_utilities(raw: bytes, path: Path) -> Utilities:
    """The utilities of a file's content.

    Args:
        raw: What the file holds.
        path: What to call it in messages.

    Raises:
        DataError: See `Utilities.read`.
    """
    try:
        document = tomllib.loads(raw.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise DataError(f"{path}: not TOML: {reason}") from error
    reader = _Reader()
    utilities = reader.utilities(document)
    if utilities is None or reader.problems:
        raise DataError(f"{path}: cannot be used\n" + "\n".join(f"  - {line}" for line in reader.problems))
    return utilities


class _Reader:
    """Collects every mistake of a document on the way to its utilities."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def wrong(self, key: str, wanted: str, found: object) -> None:
        text = repr(found)
        text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
        self.problems.append(f"{key}: wanted {wanted}, found {text}")

    def utilities(self, document: Mapping[str, Any]) -> Utilities | None:
        schema = document.get("schema")
        if schema != SCHEMA or not isinstance(schema, int) or isinstance(schema, bool):
            self.wrong("schema", f"{SCHEMA}, the version of the format", schema)
        self._known("", document, ("schema", "features", "stakeholders", "pool"))
        features = self._features(document.get("features"))
        tables = self._stakeholders(document.get("stakeholders"), features)
        if features is None:
            features = tuple(dict.fromkeys(name for weights, _ in tables.values() for name in weights))
            if tables and not 1 <= len(features) <= MAX_FEATURES:
                self.wrong("stakeholders", f"weights for 1 to {MAX_FEATURES} features", len(features))
        pool = self._pool(document["pool"], len(features)) if "pool" in document else None
        if pool is not None and "features" not in document:
            self.problems.append("features: wanted, as pool goes by their order; found none")
        if self.problems:
            return None
        weights = {name: values for name, (values, _) in tables.items()}
        fits = {name: fit for name, (_, fit) in tables.items() if fit}
        try:
            return Utilities.of(weights, features, pool=pool, fits=fits)
        except DataError as error:  # every mistake should have been told with its key above; never pass one by
            self.problems.append(str(error))
            return None

    def _known(self, where: str, table: Mapping[str, Any], keys: tuple[str, ...]) -> None:
        for key in table:
            if key not in keys:
                self.problems.append(f"{where}{key}: not a key; there are {', '.join(keys)}")

    def _features(self, found: object) -> tuple[str, ...] | None:
        if found is None:
            return None
        if not isinstance(found, list) or not 1 <= len(found) <= MAX_FEATURES:
            self.wrong("features", f"a list of 1 to {MAX_FEATURES} names", found)
            return None
        for place, name in enumerate(found):
            if told := feature_problem(name):
                self.problems.append(f"features[{place}]: {told}")
            elif name in found[:place]:
                self.problems.append(f"features[{place}]: wanted each feature once, found {name!r} again")
        return tuple(str(name) for name in found)

    def _stakeholders(
        self, found: object, features: tuple[str, ...] | None
    ) -> dict[str, tuple[dict[str, float], dict[str, Any]]]:
        if not isinstance(found, dict) or not 1 <= len(found) <= MAX_STAKEHOLDERS:
            wanted = f"1 to {MAX_STAKEHOLDERS} tables such as [stakeholders.user.weights]"
            many = isinstance(found, dict) and len(found) > MAX_STAKEHOLDERS
            self.wrong("stakeholders", wanted, len(found) if many and isinstance(found, dict) else found)
            return {}
        tables: dict[str, tuple[dict[str, float], dict[str, Any]]] = {}
        for name, table in found.items():
            key = f"stakeholders.{name}"
            if told := stakeholder_problem(name):
                self.problems.append(f"{key}: {told}")
            if not isinstance(table, dict):
                self.wrong(key, "a table with weights", table)
                continue
            self._known(f"{key}.", table, ("weights", "fit"))
            fit = table.get("fit", {})
            if not isinstance(fit, dict):
                self.wrong(f"{key}.fit", "a table", fit)
                fit = {}
            tables[name] = (self._weights(f"{key}.weights", table.get("weights"), features), fit)
        return tables

    def _weights(self, key: str, found: object, features: tuple[str, ...] | None) -> dict[str, float]:
        if not isinstance(found, dict):
            self.wrong(key, "a table of feature = number", found)
            return {}
        weights: dict[str, float] = {}
        for feature, weight in found.items():
            where = f"{key}.{feature}"
            if features is not None and feature not in features:
                self.problems.append(f"{where}: wanted one of the names in features, found another")
            elif features is None and (told := feature_problem(feature)):
                self.problems.append(f"{where}: {told}")
            if not _is_number(weight) or not abs(weight) <= MAX_WEIGHT:
                self.wrong(where, f"a number from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}", weight)
            else:
                weights[feature] = float(weight)
        return weights

    def _pool(self, found: object, count: int) -> Moments | None:
        if not isinstance(found, dict):
            self.wrong("pool", "a table with rows, mean and covariance", found)
            return None
        before = len(self.problems)
        self._known("pool.", found, ("rows", "mean", "covariance"))
        rows: Any
        mean: Any
        covariance: Any
        rows, mean, covariance = found.get("rows"), found.get("mean"), found.get("covariance")
        if not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
            self.wrong("pool.rows", "a whole number of at least 1", rows)
        if not _is_vector(mean, count):
            self.wrong("pool.mean", f"{count} finite numbers, one per feature", mean)
        if not isinstance(covariance, list) or len(covariance) != count:
            self.wrong("pool.covariance", f"{count} rows of {count} finite numbers", covariance)
        else:
            for place, row in enumerate(covariance):
                if not _is_vector(row, count):
                    self.wrong(f"pool.covariance[{place}]", f"{count} finite numbers", row)
        if len(self.problems) > before:
            return None
        try:
            return Moments.of(mean, covariance, rows)
        except DataError as error:
            self.problems.append(f"pool: {error}")
            return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_vector(value: object, count: int) -> bool:
    if not isinstance(value, list) or len(value) != count or not all(map(_is_number, value)):
        return False
    try:
        return all(math.isfinite(float(number)) for number in value)
    except OverflowError:
        return False
