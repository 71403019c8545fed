"""What all served models share: arrays on the device in a precision, padded shapes, a count of compilations."""

from __future__ import annotations

import threading
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from phoenix_recsys.actions import action_names
from phoenix_recsys.artifact import Artifact
from phoenix_recsys.backend import FullWindow, Precision
from phoenix_recsys.config import RankerConfig, RetrievalConfig
from phoenix_recsys.device_tables import DeviceTables
from phoenix_recsys.inputs import Embeddings, RankerBatch, RetrievalBatch
from phoenix_recsys.quantized_tables import QuantizedTables
from phoenix_recsys.quantized_weights import QuantizedMatrix, as_float, quantize_params
from phoenix_recsys.requests import Floats, History
from phoenix_recsys.tables import EmbeddingTables, PaddedTables
from phoenix_recsys.transforms import Params

T = TypeVar("T", bound=np.generic)

Tables: TypeAlias = EmbeddingTables | DeviceTables
"""Tables on a device; either looks up users, items and authors."""


def bucket_for(size: int, buckets: tuple[int, ...]) -> int:
    """The smallest bucket that holds ``size`` rows, or the largest there is."""
    return next((bucket for bucket in buckets if bucket >= size), buckets[-1])


def checked_buckets(name: str, buckets: tuple[int, ...], largest: int | None = None) -> tuple[int, ...]:
    """Buckets in ascending order; with ``largest``, none above it and that one in any case.

    Raises:
        ValueError: if there is none, or one is not positive.
    """
    ordered = tuple(sorted({min(bucket, largest) if largest else bucket for bucket in buckets}))
    if not ordered or ordered[0] < 1:
        raise ValueError(f"{name} must be positive sizes, at least one, found {buckets}")
    return ordered if largest is None or ordered[-1] == largest else (*ordered, largest)


def pad_rows(array: npt.NDArray[T], size: int) -> npt.NDArray[T]:
    """Append zero rows: [n, ...] to [size, ...]."""
    padded = np.zeros((size, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return padded


def no_rows(width: int) -> Floats:
    """Float32 [0, width]."""
    return np.zeros((0, width), np.float32)


def sigmoid(logits: Floats) -> Floats:
    """Float32 1 / (1 + exp(−x))."""
    # exp of a negative number only, so that nothing overflows.
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)


def device_tables(artifact: Artifact, precision: Precision) -> Tables:
    """An artifact's tables on the device.

    Tables that are quantised already stay so under any precision; others are quantised under ``int8``. No float copy
    of a quantised table is ever made.
    """
    tables = artifact.tables
    if isinstance(tables, QuantizedTables):
        return tables.on_device()
    if precision == "int8":
        quantized = QuantizedTables.quantize(*tables)
        for table in quantized.tables:
            # Read-only arrays are taken over without a copy; nobody else holds these.
            table.rows.flags.writeable = table.scales.flags.writeable = False
        return quantized.on_device()
    if precision == "bfloat16":
        # A row is rounded before anything is computed from it: its only reader is a projection, which takes bfloat16
        # inputs. A gather copies, so rounding the table once gives the same bits in half the memory. Rounded on the
        # host: JAX would put the float32 table on the device first.
        return PaddedTables(*(_placed(_padded(np.asarray(table).astype(jnp.bfloat16))) for table in tables))
    return EmbeddingTables(*(_placed(np.asarray(table).astype(np.float32, copy=False)) for table in tables))


def _padded(table: npt.NDArray[Any]) -> npt.NDArray[Any]:
    table[0] = 0  # no hash leads there
    table.flags.writeable = False
    return table


def _placed(table: npt.NDArray[Any]) -> jax.Array:
    # A CPU takes an array over without a copy. That must never change, so one that could is copied.
    placed: jax.Array = jax.device_put(table.copy() if table.flags.writeable else table)
    return placed


def device_params(params: Params, precision: Precision) -> dict[str, dict[str, Any]]:
    """A parameter tree on the device: float32 arrays, matrices under ``int8`` as ``QuantizedMatrix`` of arrays."""

    def put(value: Any) -> Any:
        if isinstance(value, QuantizedMatrix):
            return QuantizedMatrix(jnp.asarray(value.values), jnp.asarray(value.scales))
        return jnp.asarray(value, jnp.float32)

    if precision == "int8":
        params = quantize_params(params)
        return {module: {name: put(value) for name, value in entries.items()} for module, entries in params.items()}
    return {
        module: {name: jnp.asarray(as_float(value)) for name, value in entries.items()}
        for module, entries in params.items()
    }


class Served:
    """A loaded model: parameters and tables on the device, histories in padded shapes, a count of compilations.

    Args:
        artifact: a loaded model.
        history_buckets: history lengths to compile for; default the configured one alone, which is always among
            them.
        precision: of parameters and tables, see :func:`device_params` and :func:`device_tables`.

    Attributes:
        full_window: which events of a long history are read.
        compilations: how many programs were traced so far; constant once the model is warmed up.
    """

    config: RankerConfig | RetrievalConfig

    def __init__(
        self, artifact: Artifact, history_buckets: tuple[int, ...] | None = None, precision: Precision = "float32"
    ) -> None:
        self.hash_params = artifact.hash_params
        self.served_heads = artifact.served_heads
        self.metadata = artifact.metadata
        self.params: Params = device_params(artifact.params, precision)
        self.tables = device_tables(artifact, precision)
        longest = artifact.config.history_seq_len
        self.history_buckets = checked_buckets("history_buckets", history_buckets or (longest,), longest)
        self.full_window: FullWindow = "slide"
        self.compilations = 0
        self._counting = threading.Lock()

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the A actions, in order."""
        return action_names(self.config)

    def count_compilation(self) -> None:
        """To be called by a jitted function, whose Python body runs while it is traced and never else."""
        with self._counting:  # two threads may trace two shapes at once
            self.compilations += 1

    def recent(self, history: History) -> History:
        """The events that the model reads, oldest first, of those that name an item; see ``full_window``."""
        window, count = self.config.history_seq_len, int(np.count_nonzero(history.item_ids))
        if self.full_window == "slide" or count <= window:
            return history.newest(window)
        step = max(1, window // 8)
        dropped = -(-(count - window) // step) * step
        return history.newest(count - dropped)

    def user_side(self, user_id: int, history: History) -> tuple[RetrievalBatch, Floats]:
        """Hash and pad a viewer: user and history fields of a batch of one, and dwell seconds [1, S].

        Raises:
            ValueError: if the history's actions do not fit the model.
        """
        if history.actions.shape[1] != self.config.num_actions:
            raise ValueError(
                f"the model knows {self.config.num_actions} actions, the history has {history.actions.shape[1]}"
            )
        recent = self.recent(history)
        size = bucket_for(len(recent), self.history_buckets)
        surfaces = np.zeros(len(recent), np.int32) if recent.surfaces is None else recent.surfaces
        dwell = np.zeros(len(recent), np.float32) if recent.dwell_seconds is None else recent.dwell_seconds
        batch = RetrievalBatch(
            self.hash_params.hash_users([user_id]),
            pad_rows(self.hash_params.hash_items(recent.item_ids), size)[None],
            pad_rows(self.hash_params.hash_authors(recent.author_ids), size)[None],
            pad_rows(recent.actions, size)[None],
            pad_rows(surfaces, size)[None],
        )
        return batch, pad_rows(dwell, size)[None]

    def history_of(self, length: int) -> History:
        """Some history of so many events, to warm up with."""
        ids = np.arange(1, length + 1, dtype=np.uint64)
        return History(ids, ids, np.zeros((length, self.config.num_actions), np.float32))


def gather_user_side(tables: Tables, batch: RankerBatch | RetrievalBatch) -> Embeddings:
    """Look up the rows of users and histories, float32."""
    # bfloat16 rows are widened, since blocks round their results to the dtype of the rows.
    return Embeddings(
        tables.lookup_users(batch.user_hashes).astype(jnp.float32),
        tables.lookup_items(batch.history_post_hashes).astype(jnp.float32),
        tables.lookup_authors(batch.history_author_hashes).astype(jnp.float32),
    )


def gather_all(tables: Tables, batch: RankerBatch) -> Embeddings:
    """Look up the rows of users, histories and candidates, float32."""
    return gather_user_side(tables, batch)._replace(
        candidate_post_embeddings=tables.lookup_items(batch.candidate_post_hashes).astype(jnp.float32),
        candidate_author_embeddings=tables.lookup_authors(batch.candidate_author_hashes).astype(jnp.float32),
    )


def on_host(array: jax.Array) -> Floats:
    """Float32 on the host; waits for the device."""
    # Even a cast that changes nothing would be a call to the device.
    return np.asarray(array if array.dtype == jnp.float32 else array.astype(jnp.float32))
