"""Hash functions from 64-bit ids to embedding rows.

For each pair (scale, bias): x = id · scale + bias in wrapping int64, y = x mod modulus (floored), bucket =
y mod (V − 1) + 1, so 1 … V − 1; id 0 gives bucket 0, padding (x-algorithm, May 2026 release). Rows are
numbered in one unified table: 65 reserved zero rows, then users, items, authors. Row 0 is padding.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import attrs
import numpy as np
import numpy.typing as npt

RESERVED_ROWS = 65
"""Zero rows at the head of the unified table."""

MERSENNE_61 = 2**61 - 1

Ids = npt.ArrayLike
Rows = npt.NDArray[np.int32]


def as_uint64(ids: Ids) -> npt.NDArray[np.uint64]:
    """Ids as uint64, any shape; negative int64 values are reinterpreted bit for bit.

    Raises:
        TypeError: if the ids are not integers.
        OverflowError: if a Python integer needs more than 64 bits.
    """
    array = np.asarray(ids)
    if array.size == 0:
        return np.zeros(array.shape, np.uint64)
    if array.dtype.kind == "f" and not isinstance(ids, np.ndarray):
        # numpy makes floats of a list with Python integers on both sides of 2**63, which would round them.
        array = np.array(ids, dtype=object)
    if array.dtype == object:
        return _objects_as_uint64(array)
    if array.dtype.kind not in "iu":
        raise TypeError(f"ids must be integers, found an array of {array.dtype}")
    if array.dtype.kind == "i":
        return array.astype(np.int64, copy=False).view(np.uint64)
    return array.astype(np.uint64)


def _objects_as_uint64(array: npt.NDArray[np.object_]) -> npt.NDArray[np.uint64]:
    kinds = set(map(type, array.reshape(-1).tolist()))
    wrong = sorted(kind.__name__ for kind in kinds if not issubclass(kind, (int, np.integer)) or kind is bool)
    if wrong:
        raise TypeError(f"ids must be integers, found {', '.join(wrong)}")
    try:
        return array.astype(np.uint64)  # refuses negative numbers and those that are too large
    except OverflowError:
        pass
    outside = np.asarray((array < -(2**63)) | (array >= 2**64), bool)
    if outside.any():
        raise OverflowError(f"ids must fit 64 bits, found {array[outside][0]}")
    negative = np.asarray(array < 0, bool)
    found = np.empty(array.shape, np.uint64)
    found[~negative] = array[~negative].astype(np.uint64)
    found[negative] = array[negative].astype(np.int64).view(np.uint64)
    return found


def _wrap_int64(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


class Collisions(NamedTuple):
    """How much distinct ids share rows.

    Attributes:
        any_shared: share of ids with at least one row that another id also uses.
        all_shared: share of ids all of whose rows are used by other ids.
        identical: share of ids whose whole tuple of rows another id has too: the model cannot tell them
            apart.
    """

    any_shared: float
    all_shared: float
    identical: float


@attrs.frozen
class EntityHash:
    """The hash functions of one kind of id.

    Attributes:
        scales: one multiplier per function.
        biases: one summand per function.
        modulus: positive, below 2**63.
        vocab_size: rows V of the entity's table; local row 0 is never used.
    """

    scales: tuple[int, ...]
    biases: tuple[int, ...]
    modulus: int
    vocab_size: int

    def __attrs_post_init__(self) -> None:
        if not self.scales or len(self.scales) != len(self.biases):
            raise ValueError(
                f"a hash needs as many scales as biases, at least one; found {len(self.scales)} scales and "
                f"{len(self.biases)} biases"
            )
        if not 0 < self.modulus < 2**63:
            raise ValueError(f"a hash modulus must lie in 1 … 2**63 − 1, found {self.modulus}")
        if not 2 <= self.vocab_size < 2**31:
            raise ValueError(f"a hashed vocabulary needs 2 … 2**31 − 1 rows, found {self.vocab_size}")

    @property
    def num_hashes(self) -> int:
        """How many buckets an id has."""
        return len(self.scales)

    def buckets(self, ids: Ids) -> npt.NDArray[np.int64]:
        """Local rows of ids [...]: int64 [..., k] in 1 … V − 1, or 0 for id 0."""
        return self._buckets(as_uint64(ids))

    def rows(self, ids: Ids, offset: int) -> Rows:
        """Unified rows of ids [...]: int32 [..., k], ``offset`` further on than the buckets, or 0 for id 0."""
        return self._buckets(as_uint64(ids), offset).astype(np.int32)

    def _buckets(self, ids: npt.NDArray[np.uint64], offset: int = 0) -> npt.NDArray[np.int64]:
        """Buckets plus ``offset``, but 0 for id 0; one array is worked on in place."""
        scales = np.array([_wrap_int64(scale) for scale in self.scales], np.int64)
        biases = np.array([_wrap_int64(bias) for bias in self.biases], np.int64)
        with np.errstate(over="ignore"):  # wrapping is the definition
            mixed = np.asarray(ids.view(np.int64)[..., None] * scales)
            mixed += biases
        np.mod(mixed, np.int64(self.modulus), out=mixed)
        np.mod(mixed, np.int64(self.vocab_size - 1), out=mixed)
        mixed += offset + 1
        mixed[ids == 0] = 0
        return mixed

    def collisions(self, ids: Ids) -> Collisions:
        """How much the distinct non-zero ids among ``ids`` share rows."""
        distinct = np.unique(as_uint64(ids))
        distinct = distinct[distinct != 0]
        if distinct.size == 0:
            return Collisions(0.0, 0.0, 0.0)
        buckets = self.buckets(distinct)
        # An id that hits one row twice shares it with nobody, so count ids per row, not hits.
        ordered = np.sort(buckets, axis=1)
        first = np.concatenate([np.ones((len(ordered), 1), bool), ordered[:, 1:] != ordered[:, :-1]], axis=1)
        users_of_row = np.bincount(ordered[first], minlength=self.vocab_size)
        shared = users_of_row[buckets] > 1
        _, group, count = np.unique(buckets, axis=0, return_inverse=True, return_counts=True)
        identical = count[group.reshape(-1)] > 1
        return Collisions(float(shared.any(axis=1).mean()), float(shared.all(axis=1).mean()), float(identical.mean()))

    @classmethod
    def random(cls, rng: np.random.Generator, vocab_size: int, num_hashes: int = 2) -> EntityHash:
        """Draw odd 62-bit scales and 60-bit biases; the modulus is the prime 2**61 − 1."""
        scales = tuple(int(x) | 1 for x in rng.integers(2**61, 2**62, num_hashes))
        biases = tuple(int(x) for x in rng.integers(1, 2**60, num_hashes))
        return cls(scales, biases, MERSENNE_61, vocab_size)

    @classmethod
    def _even(cls, rng: np.random.Generator, vocab_size: int, num_hashes: int) -> EntityHash:
        # With one small scale prime to V − 1 nothing wraps, so consecutive ids fill a column without a
        # collision; biases that equal a jump of (V − 1)/k ids keep the columns apart as well while the
        # catalogue is no larger than that.
        places = vocab_size - 1
        scale = int(rng.integers(2**20, 2**31))
        while math.gcd(scale, places) != 1:
            scale += 1
        bias = int(rng.integers(1, 2**31))
        jump = max(places // num_hashes, 1)
        biases = tuple(bias + scale * jump * index for index in range(num_hashes))
        return cls((scale,) * num_hashes, biases, MERSENNE_61, vocab_size)

    @classmethod
    def fitted(
        cls, rng: np.random.Generator, ids: Ids, vocab_size: int, num_hashes: int = 2, tries: int = 16
    ) -> EntityHash:
        """The best of ``tries`` random draws for these ids: fewest identical ones, then fewest shared rows.

        Affine hashes of consecutive ids spread very unevenly from one draw of constants to the next, so
        constants for a known catalogue are worth choosing.
        """
        draws = [cls.random(rng, vocab_size, num_hashes) for _ in range(max(tries, 1) // 2)]
        draws += [cls._even(rng, vocab_size, num_hashes) for _ in range(max(tries, 1) - len(draws))]

        def badness(draw: EntityHash) -> tuple[float, float, float]:
            found = draw.collisions(ids)
            return found.identical, found.any_shared, found.all_shared

        return min(draws, key=badness)


@attrs.frozen
class HashParams:
    """Hashes of users, items and authors, and their places in the unified table."""

    user: EntityHash
    item: EntityHash
    author: EntityHash

    def __attrs_post_init__(self) -> None:
        total = RESERVED_ROWS + sum(hash_.vocab_size for hash_ in (self.user, self.item, self.author))
        if total > 2**31:
            raise ValueError(f"unified rows are int32: wanted at most {2**31} rows in all tables, found {total}")

    @property
    def user_offset(self) -> int:
        """Unified row of local row 0 of the user table."""
        return RESERVED_ROWS

    @property
    def item_offset(self) -> int:
        """Unified row of local row 0 of the item table."""
        return RESERVED_ROWS + self.user.vocab_size

    @property
    def author_offset(self) -> int:
        """Unified row of local row 0 of the author table."""
        return self.item_offset + self.item.vocab_size

    def hash_users(self, ids: Ids) -> Rows:
        """Unified rows of user ids [...]: int32 [..., nu], 0 for id 0."""
        return self.user.rows(ids, self.user_offset)

    def hash_items(self, ids: Ids) -> Rows:
        """Unified rows of item ids [...]: int32 [..., ni], 0 for id 0."""
        return self.item.rows(ids, self.item_offset)

    def hash_authors(self, ids: Ids) -> Rows:
        """Unified rows of author ids [...]: int32 [..., na], 0 for id 0."""
        return self.author.rows(ids, self.author_offset)

    def to_json(self) -> dict[str, Any]:
        """The ``hash_params`` entry of an artifact's config.json."""
        found: dict[str, Any] = {}
        for name in ("user", "item", "author"):
            entity: EntityHash = getattr(self, name)
            found[f"{name}_hash_scales"] = list(entity.scales)
            found[f"{name}_biases"] = list(entity.biases)
            found[f"{name}_modulus"] = entity.modulus
        return found

    @classmethod
    def random(
        cls,
        seed: int,
        *,
        user_vocab_size: int,
        item_vocab_size: int,
        author_vocab_size: int,
        num_user_hashes: int = 2,
        num_item_hashes: int = 2,
        num_author_hashes: int = 2,
        user_ids: Ids | None = None,
        item_ids: Ids | None = None,
        author_ids: Ids | None = None,
        tries: int = 16,
    ) -> HashParams:
        """Draw constants for a new model; where ids are given, keep the best of ``tries`` draws for them."""
        rng = np.random.default_rng(seed)

        def draw(ids: Ids | None, vocab_size: int, num_hashes: int) -> EntityHash:
            if ids is None:
                return EntityHash.random(rng, vocab_size, num_hashes)
            return EntityHash.fitted(rng, ids, vocab_size, num_hashes, tries)

        return cls(
            draw(user_ids, user_vocab_size, num_user_hashes),
            draw(item_ids, item_vocab_size, num_item_hashes),
            draw(author_ids, author_vocab_size, num_author_hashes),
        )
