"""The pool of rows that stakeholders are compared on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from stakeholder_pools import SEEDS, make_pool

from candidate_pipeline.errors import DataError
from candidate_pipeline_stakeholder.moments import Moments
from candidate_pipeline_stakeholder.pool import MAX_VALUE, Pool

COLUMNS = ("values", "item_ids", "request", "request_ids", "group", "author", "score", "selected")


def same(one: Pool, other: Pool) -> bool:
    """Whether two pools hold the same."""
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    return one.features == other.features and one.groups == other.groups


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_a_pool_survives_its_file(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Writing and reading gives the same pool, unknown groups, authors and scores included."""
    path = tmp_path_factory.mktemp("pool") / "pool.parquet"
    pool = make_pool(seed)
    pool.write(path)
    assert same(Pool.read(path), pool)


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_requests_share_the_rows_out(seed: int) -> None:
    """Every row is of exactly one request, and its request is the one it was given."""
    pool = make_pool(seed)
    parts = list(pool.requests())
    assert len(parts) == pool.request_count
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(pool)))
    for code, rows in enumerate(parts):
        assert len(rows)
        assert (pool.request[rows] == code).all()


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_moments_are_those_of_numpy(seed: int) -> None:
    """Pooled moments are population moments; those within requests are their mean over requests, each counting once."""
    pool = make_pool(seed)
    pooled, within = pool.moments(), pool.moments(within=True)
    np.testing.assert_allclose(pooled.mean, pool.values.mean(axis=0))
    np.testing.assert_allclose(pooled.covariance, np.cov(pool.values.T, bias=True), atol=1e-12)
    each = [np.cov(pool.values[rows].T, bias=True) for rows in pool.requests()]
    np.testing.assert_allclose(within.covariance, np.mean(each, axis=0), atol=1e-12)
    np.testing.assert_allclose(
        within.mean, np.mean([pool.values[rows].mean(axis=0) for rows in pool.requests()], axis=0)
    )


def test_the_spread_of_a_utility_is_that_of_its_values() -> None:
    """The standard deviation from the moments is the one of w . p over the rows."""
    pool = make_pool(3)
    weights = np.array([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(pool.moments().sd(weights), pool.utilities(weights).std(axis=0), atol=1e-12)
    assert pool.utilities(weights[0]).shape == (len(pool),)


def test_rows_can_be_taken_by_place_and_by_mask() -> None:
    """Both ways give the same rows; requests and groups without rows disappear."""
    pool = make_pool(1)
    mask = pool.request == 0
    taken = pool.take(mask)
    assert same(taken, pool.take(np.flatnonzero(mask)))
    assert taken.request_count == 1
    assert set(taken.groups) == {pool.groups[code] for code in pool.group[mask] if code >= 0}


def test_features_can_be_selected() -> None:
    """Selecting reorders, and what the pool lacks is 0."""
    pool = make_pool(2)
    chosen = pool.select(["f2", "missing", "f0"])
    assert chosen.features == ("f2", "missing", "f0")
    np.testing.assert_array_equal(chosen.values[:, 0], pool.values[:, 2])
    assert not chosen.values[:, 1].any()


def test_arrays_cannot_be_written_to() -> None:
    """A pool is read-only, and keeps a copy of what it was made from."""
    values = np.ones((2, 1))
    pool = Pool.of(["f"], values)
    values[0] = 5
    assert pool.values[0, 0] == 1
    for name in COLUMNS:
        with pytest.raises(ValueError, match="read-only"):
            getattr(pool, name)[0] = 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"values": [[np.nan, 1.0]]}, "row 0, feature 'a'.*nan"),
        ({"values": [[1.0, np.inf]]}, "feature 'b'.*inf"),
        ({"values": [[1.0, 2 * MAX_VALUE]]}, "within"),
        ({"values": np.zeros((0, 2))}, "at least one row"),
        ({"values": [[1.0]]}, r"wanted values \[rows, 2\]"),
        ({"features": ["a", "a"]}, "named twice"),
        ({"features": "ab"}, "names of features"),
        ({"features": []}, "names of features"),
        ({"item_ids": [1.5]}, "integers of item_ids"),
        ({"request": [1, 2]}, "1 integers of request"),
        ({"group": [3]}, "name of a group"),
        ({"group": [2], "groups": ["x"]}, "groups from -1 to 0"),
        ({"group": ["x", "y"]}, "1 groups"),
        ({"score": [np.inf]}, "score is infinite"),
        ({"score": [1.0, 2.0]}, "1 values of score"),
        ({"selected": [1]}, "true or false"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], told: str) -> None:
    """Each mistake is named."""
    given_ = {"features": ["a", "b"], "values": [[1.0, 2.0]], **change}
    with pytest.raises(DataError, match=told):
        Pool.of(given_.pop("features"), given_.pop("values"), **given_)


def test_utilities_of_the_wrong_length_are_refused() -> None:
    """Weights must be one for each feature."""
    with pytest.raises(DataError, match="3 weights"):
        make_pool(0).utilities([1.0, 2.0])


def test_bad_files_are_refused(tmp_path: Path) -> None:
    """Missing, damaged, without features, wrongly typed, with nulls or with NaN: the message names the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "pool.parquet"
    with pytest.raises(DataError, match="no such file"):
        Pool.read(path)
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        Pool.read(path)
    tables = {
        "feature.NAME": {"item_id": pa.array([1])},
        "wanted a number, found string": {"feature.a": pa.array(["x"])},
        "1 values are null": {"feature.a": pa.array([1.0, None])},
        "wanted an integer": {"feature.a": pa.array([1.0]), "request": pa.array([0.5])},
        "wanted 1 to the limit": {"feature.a": pa.array([], pa.float64())},
        "finite number": {"feature.a": pa.array([float("nan")])},
    }
    for told, columns in tables.items():
        pq.write_table(pa.table(columns), path)
        with pytest.raises(DataError, match=told) as caught:
            Pool.read(path)
        assert str(path) in str(caught.value)


def test_a_file_needs_features_only(tmp_path: Path) -> None:
    """A table made elsewhere, with integers and without the optional columns, reads."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "pool.parquet"
    pq.write_table(pa.table({"feature.a": pa.array([1, 2], pa.int32()), "other": pa.array(["x", "y"])}), path)
    pool = Pool.read(path)
    assert pool.features == ("a",)
    assert pool.request_count == 1
    assert pool.groups == ()


def test_moments_are_checked() -> None:
    """Moments survive plain data, and what cannot be moments is refused."""
    moments = make_pool(0).moments()
    again = Moments.from_dict(moments.as_dict())
    np.testing.assert_array_equal(again.covariance, moments.covariance)
    for bad, told in (
        ({"mean": [0.0]}, "missing"),
        ({"mean": [0.0], "covariance": [[1.0, 0.0]], "rows": 1}, "shapes"),
        ({"mean": [0.0], "covariance": [[-1.0]], "rows": 1}, "negative variance"),
        ({"mean": [0.0, 0.0], "covariance": [[1.0, 0.5], [0.0, 1.0]], "rows": 1}, "symmetric"),
        ({"mean": [0.0], "covariance": [[1.0]], "rows": 0}, "at least one row"),
        ({"mean": [np.nan], "covariance": [[1.0]], "rows": 1}, "finite"),
        ({"mean": ["x"], "covariance": [[1.0]], "rows": 1}, "lists of numbers"),
    ):
        with pytest.raises(DataError, match=told):
            Moments.from_dict(bad)
