"""Embedding tables of users.

Items and authors, addressed by rows of one unified numbering without a unified copy.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from phoenix_recsys.hashing import RESERVED_ROWS, HashParams
from phoenix_recsys.inputs import Array


class EmbeddingTables(NamedTuple):
    """Three float tables [V, D]; a pytree, so it can be an argument of a jitted function or be trained.

    Unified rows are those of :class:`phoenix_recsys.hashing.HashParams`: 0 … 64 are zero, then the three
    tables. Local row 0 of each table is never addressed.
    """

    user: Array
    item: Array
    author: Array

    @property
    def emb_size(self) -> int:
        """Width D."""
        return int(self.user.shape[1])

    @property
    def num_rows(self) -> int:
        """Rows of the unified numbering."""
        return RESERVED_ROWS + sum(int(table.shape[0]) for table in self)

    def lookup_users(self, rows: Array) -> jax.Array:
        """Unified user rows [...] to [..., D].

        Row 0 gives zeros. Rows of another table are not checked for.
        """
        return gather(self.user, rows, RESERVED_ROWS)

    def lookup_items(self, rows: Array) -> jax.Array:
        """Unified item rows [...] to [..., D]; row 0 gives zeros."""
        return gather(self.item, rows, RESERVED_ROWS + self.user.shape[0])

    def lookup_authors(self, rows: Array) -> jax.Array:
        """Unified author rows [...] to [..., D]; row 0 gives zeros."""
        return gather(self.author, rows, RESERVED_ROWS + self.user.shape[0] + self.item.shape[0])

    def lookup(self, rows: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Any unified rows [...] to float32 [..., D], on the host.

        Raises:
            IndexError: if a row lies outside the unified numbering.
        """
        wanted = np.asarray(rows, np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= self.num_rows):
            raise IndexError(f"unified rows must lie in 0 … {self.num_rows - 1}, found {wanted.min()} … {wanted.max()}")
        found = np.zeros((*wanted.shape, self.emb_size), np.float32)
        start = RESERVED_ROWS
        for table in self:
            here = (wanted >= start) & (wanted < start + table.shape[0])
            found[here] = np.asarray(table)[wanted[here] - start]
            start += table.shape[0]
        return found

    @classmethod
    def random(cls, seed: int, hash_params: HashParams, emb_size: int) -> EmbeddingTables:
        """Normal rows with standard deviation 1/sqrt(D), float32."""
        rng = np.random.default_rng(seed)
        sizes = (hash_params.user.vocab_size, hash_params.item.vocab_size, hash_params.author.vocab_size)
        scale = np.float32(1.0 / np.sqrt(emb_size))
        return cls(*(rng.standard_normal((size, emb_size), np.float32) * scale for size in sizes))


class PaddedTables(EmbeddingTables):
    """Tables whose local row 0 is zero, as serving holds them: padding is looked up like any other row.

    Rows must be unified rows of the hashes, 0 included; nothing is checked. XLA then copies whole rows, where a choice
    between a row and zeros would be made element by element.
    """

    __slots__ = ()

    def lookup_users(self, rows: Array) -> jax.Array:
        """Unified user rows [...] to [..., D]; row 0 gives zeros."""
        return _gather_padded(self.user, rows, RESERVED_ROWS)

    def lookup_items(self, rows: Array) -> jax.Array:
        """Unified item rows [...] to [..., D]; row 0 gives zeros."""
        return _gather_padded(self.item, rows, RESERVED_ROWS + self.user.shape[0])

    def lookup_authors(self, rows: Array) -> jax.Array:
        """Unified author rows [...] to [..., D]; row 0 gives zeros."""
        return _gather_padded(self.author, rows, RESERVED_ROWS + self.user.shape[0] + self.item.shape[0])


def _gather_padded(table: Array, rows: Array, offset: int) -> jax.Array:
    local = jnp.maximum(jnp.asarray(rows) - offset, 0)
    return jnp.asarray(table).at[local].get(mode="promise_in_bounds")


def gather(table: Array, rows: Array, offset: int) -> jax.Array:
    """Rows ``rows − offset`` of ``table`` [V, D]: int [...] to [..., D]; unified row 0 gives zeros."""
    rows = jnp.asarray(rows)
    found = jnp.take(jnp.asarray(table), jnp.maximum(rows - offset, 0), axis=0, mode="clip")
    return jnp.where((rows == 0)[..., None], jnp.zeros((), found.dtype), found)
