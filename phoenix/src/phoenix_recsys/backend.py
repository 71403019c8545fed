"""What can serve a ranker: the protocol of backends, their options, and what they report.

Three come with the library: ``eager`` and ``jit`` run the plain forward pass, ``kv_cache`` encodes a viewer once and
scores candidates against cached keys and values. Others are registered through a hook
(:mod:`phoenix_recsys.backend_registry`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, get_args, runtime_checkable

import attrs

from phoenix_recsys.config import RankerConfig
from phoenix_recsys.requests import History, Items, Scores

Precision = Literal["float32", "bfloat16", "int8"]
"""Inputs of products: ``float32``; ``bfloat16`` with float32 sums; ``int8`` weights with a scale for each output
channel and activations with a scale for each token."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
FullWindow = Literal["slide", "eighths"]
MEBIBYTE = 1 << 20

Viewer: TypeAlias = Any
"""What a backend made of a user and a history; only the backend that made it can read it."""


def _sizes(value: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if value is None else tuple(value)


def _some_sizes(value: Sequence[int]) -> tuple[int, ...]:
    return tuple(value)


def _check_sizes(_: object, attribute: attrs.Attribute[Any], value: tuple[int, ...] | None) -> None:
    if value is not None and (not value or any(isinstance(n, bool) or n < 1 for n in value)):
        raise ValueError(f"{attribute.name} must be positive sizes, at least one, found {value}")


def _check_not_negative(_: object, attribute: attrs.Attribute[Any], value: int) -> None:
    if value < 0:
        raise ValueError(f"{attribute.name} must not be negative, found {value}")


@attrs.frozen
class BackendOptions:
    """How a backend serves. A backend ignores what does not concern it.

    Attributes:
        precision: of the inputs of products.
        candidate_buckets: candidate counts to compile for; None takes the backend's own.
        history_buckets: history lengths to compile for; None takes the configured length alone. The configured
            length is always one of them.
        batch_buckets: how many requests one device call may hold, for which to compile.
        cache_bytes: room for encoded viewers (``kv_cache``); 0 keeps none.
        item_cache_bytes: room for the layer-0 work of candidates (``kv_cache``); 0 keeps none.
        most_new_events: an encoded viewer is extended by up to so many events; 0 never extends.
        full_window: which events of a history longer than the window are read. ``slide`` reads the newest
            ``history_seq_len``, so that every new event moves all others and a cached prefix is of no use. ``eighths``
            drops the oldest by an eighth of the window at a time, counted from the viewer's first event: it reads
            between seven eighths of the window and all of it, and a prefix is extended in between. It needs histories
            that are not cut before they arrive.

    Raises:
        ValueError: if a value is none that makes sense.
    """

    precision: Precision = attrs.field(default="float32")
    candidate_buckets: tuple[int, ...] | None = attrs.field(default=None, converter=_sizes, validator=_check_sizes)
    history_buckets: tuple[int, ...] | None = attrs.field(default=None, converter=_sizes, validator=_check_sizes)
    batch_buckets: tuple[int, ...] = attrs.field(default=(1,), converter=_some_sizes, validator=_check_sizes)
    cache_bytes: int = attrs.field(default=256 * MEBIBYTE, validator=_check_not_negative)
    item_cache_bytes: int = attrs.field(default=0, validator=_check_not_negative)
    most_new_events: int = attrs.field(default=16, validator=_check_not_negative)

    full_window: FullWindow = attrs.field(default="slide")

    @full_window.validator
    def _check_full_window(self, _: attrs.Attribute[Any], value: str) -> None:
        if value not in get_args(FullWindow):
            raise ValueError(f"full_window must be one of {', '.join(get_args(FullWindow))}, found {value!r}")

    @precision.validator
    def _check_precision(self, _: attrs.Attribute[Any], value: str) -> None:
        if value not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, found {value!r}")


@attrs.frozen
class CacheCounts:
    """What a cache did so far, and what it holds.

    Attributes:
        hits: look-ups that found what they wanted.
        extended: look-ups that found a shorter history and extended it.
        misses: look-ups that found nothing.
        evicted: entries dropped for lack of room.
        entries: entries held.
        nbytes: their bytes.
        max_bytes: the room there is.
    """

    hits: int
    extended: int
    misses: int
    evicted: int
    entries: int
    nbytes: int
    max_bytes: int

    @property
    def hit_rate(self) -> float | None:
        """Share of look-ups that found what they wanted or could extend it; None before the first."""
        asked = self.hits + self.extended + self.misses
        return (self.hits + self.extended) / asked if asked else None


@attrs.frozen
class BackendStats:
    """What a backend reports about itself.

    Attributes:
        backend: its name.
        precision: of its products.
        compilations: programs traced so far; constant once warmed up.
        caches: by name; ``prefixes`` and ``items`` for ``kv_cache``.
    """

    backend: str
    precision: str
    compilations: int
    caches: Mapping[str, CacheCounts] = attrs.field(factory=dict)


@runtime_checkable
class RankerBackend(Protocol):
    """Serves one ranker artifact; safe to call from several threads.

    A viewer is prepared once, possibly before the candidates are known, and candidates are scored for it any number
    of times. Scores depend on the artifact, the viewer and the item alone, never on the other items of a request or
    on the other requests of a batch (but for rounding between shapes, and for the slots of ``slot`` positions).
    """

    @property
    def config(self) -> RankerConfig:
        """The model's configuration."""

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the A action heads, in order."""

    @property
    def served_heads(self) -> tuple[str, ...] | None:
        """Names of the heads fit for serving, or None for all."""

    def prepare(self, user_id: int, history: History) -> Viewer:
        """Do what can be done before candidates are known.

        Args:
            user_id: 64-bit id, 0 for nobody known.
            history: oldest first; the newest ``history_seq_len`` events are read.

        Raises:
            ValueError: if the history's actions do not fit the model.
        """

    def score_prepared(self, viewer: Viewer, items: Items) -> Scores:
        """Score n items, in any order and number, for a prepared viewer."""

    def score_many(self, requests: Sequence[tuple[Viewer, Items]]) -> list[Scores]:
        """Score several requests, merged into as few device calls as there are buckets for."""

    def score(self, user_id: int, history: History, items: Items) -> Scores:
        """Prepare and score in one go."""

    def warm_up(self) -> int:
        """Compile for every bucket; returns how many programs there are."""

    def stats(self) -> BackendStats:
        """A consistent copy of the counts."""
