"""Quantised embedding rows inside compiled code: whole tables on a device, or only the rows of one batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from phoenix_recsys.hashing import RESERVED_ROWS
from phoenix_recsys.inputs import Array, Embeddings


class RequestRows(NamedTuple):
    """The distinct rows of one batch and where they go: what a device needs of tables it does not hold. A pytree.

    Attributes:
        rows: int8 [n, D], distinct rows first, zeros behind.
        scales: float32 [n].
        user: int32 [B, nu], places in ``rows``.
        history_post: int32 [B, S, ni].
        history_author: int32 [B, S, na].
        candidate_post: int32 [B, C, ni], or None.
        candidate_author: int32 [B, C, na], or None.
    """

    rows: Array
    scales: Array
    user: Array
    history_post: Array
    history_author: Array
    candidate_post: Array | None = None
    candidate_author: Array | None = None

    def embeddings(self, dtype: Any = jnp.float32) -> Embeddings:
        """Dequantised in float32, then rounded to ``dtype``; meant to run inside ``jax.jit``."""

        def take(places: Array) -> jax.Array:
            found = jnp.take(jnp.asarray(self.rows), places, axis=0, mode="clip")
            scale = jnp.take(jnp.asarray(self.scales), places, mode="clip")
            return (found.astype(jnp.float32) * scale[..., None]).astype(dtype)

        return Embeddings(
            take(self.user),
            take(self.history_post),
            take(self.history_author),
            None if self.candidate_post is None else take(self.candidate_post),
            None if self.candidate_author is None else take(self.candidate_author),
        )


class DeviceTable(NamedTuple):
    """One table on a device: int8 rows [V, D], float32 scales [V]."""

    rows: Array
    scales: Array


class QuantizedRows(NamedTuple):
    """Looked-up rows as they are stored; a pytree.

    Attributes:
        values: int8 [..., D].
        scales: float32 [...]; 0 for padding, NaN for a row of another table.
    """

    values: Array
    scales: Array


class DeviceTables(NamedTuple):
    """The three tables on a device; a pytree with the lookups of ``EmbeddingTables``.

    Rows are gathered as int8 and dequantised behind the gather, so that jitted code never holds a float table.
    Row 0 gives zeros; a row of another table gives NaN, since compiled code cannot raise.
    """

    user: DeviceTable
    item: DeviceTable
    author: DeviceTable

    @property
    def emb_size(self) -> int:
        """Width D."""
        return int(self.user.rows.shape[1])

    @property
    def num_rows(self) -> int:
        """Rows of the unified numbering."""
        return RESERVED_ROWS + sum(int(table.rows.shape[0]) for table in self)

    def lookup_users(self, rows: Array, dtype: Any = jnp.float32) -> jax.Array:
        """Unified user rows [...] to [..., D]."""
        return _dequantised(self.take_users(rows), dtype)

    def lookup_items(self, rows: Array, dtype: Any = jnp.float32) -> jax.Array:
        """Unified item rows [...] to [..., D]."""
        return _dequantised(self.take_items(rows), dtype)

    def lookup_authors(self, rows: Array, dtype: Any = jnp.float32) -> jax.Array:
        """Unified author rows [...] to [..., D]."""
        return _dequantised(self.take_authors(rows), dtype)

    def take_users(self, rows: Array) -> QuantizedRows:
        """Unified user rows [...], not dequantised."""
        return _take(self.user, rows, RESERVED_ROWS)

    def take_items(self, rows: Array) -> QuantizedRows:
        """Unified item rows [...], not dequantised."""
        return _take(self.item, rows, RESERVED_ROWS + self.user.rows.shape[0])

    def take_authors(self, rows: Array) -> QuantizedRows:
        """Unified author rows [...], not dequantised."""
        return _take(self.author, rows, RESERVED_ROWS + self.user.rows.shape[0] + self.item.rows.shape[0])


def _take(table: DeviceTable, rows: Array, offset: int) -> QuantizedRows:
    rows = jnp.asarray(rows)
    stored = jnp.asarray(table.rows)
    # Rows in front of the table count as behind it: "fill" would read a negative place from the end.
    local = jnp.where(rows == 0, 0, jnp.where(rows < offset, stored.shape[0], rows - offset))
    scale = jnp.take(jnp.asarray(table.scales), local, mode="fill", fill_value=jnp.nan)
    # Clipped by hand, once for each row: XLA would clip for every element that it copies.
    inside = jnp.minimum(local, stored.shape[0] - 1)
    return QuantizedRows(stored.at[inside].get(mode="promise_in_bounds"), jnp.where(rows == 0, 0, scale))


def _dequantised(rows: QuantizedRows, dtype: Any) -> jax.Array:
    return (jnp.asarray(rows.values).astype(jnp.float32) * jnp.asarray(rows.scales)[..., None]).astype(dtype)
