"""Embedding tables: rows of the unified numbering without a unified table."""

from __future__ import annotations

import numpy as np
import pytest

from phoenix_recsys.hashing import RESERVED_ROWS, HashParams
from phoenix_recsys.tables import EmbeddingTables


@pytest.fixture(scope="module")
def tables(small_hashes: HashParams) -> EmbeddingTables:
    """Small random tables."""
    return EmbeddingTables.random(5, small_hashes, 8)


def test_lookup_equals_the_unified_table(tables: EmbeddingTables) -> None:
    """Looking up all rows gives 65 zero rows and then the three tables in order."""
    unified = np.concatenate([np.zeros((RESERVED_ROWS, 8), np.float32), *map(np.asarray, tables)])
    assert np.array_equal(tables.lookup(np.arange(tables.num_rows)), unified)


@pytest.mark.parametrize("kind", ["users", "items", "authors"])
def test_lookups_by_kind_agree_with_the_unified_rows(
    kind: str, tables: EmbeddingTables, small_hashes: HashParams
) -> None:
    """The lookups that run on the device give the same rows, and zeros for padding."""
    rows = getattr(small_hashes, f"hash_{kind}")(np.array([[1, 0], [2**64 - 1, 7]], np.uint64))
    found = np.asarray(getattr(tables, f"lookup_{kind}")(rows))
    assert found.shape == (2, 2, 2, 8)
    assert np.array_equal(found, tables.lookup(rows))
    assert not found[0, 1].any()


def test_rows_outside_are_refused(tables: EmbeddingTables) -> None:
    """A row past the end or below zero raises and tells the range."""
    with pytest.raises(IndexError, match=f"0 … {tables.num_rows - 1}"):
        tables.lookup([tables.num_rows])
    with pytest.raises(IndexError, match="unified rows"):
        tables.lookup([-1])


def test_random_tables_are_deterministic(small_hashes: HashParams) -> None:
    """One seed gives one set of tables, of the vocabulary sizes, with rows of about unit length."""
    first, second = (EmbeddingTables.random(1, small_hashes, 64) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert [len(table) for table in first] == [40, 300, 50]
    assert np.linalg.norm(first.item, axis=1).mean() == pytest.approx(1.0, abs=0.05)
