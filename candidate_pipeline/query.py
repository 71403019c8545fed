"""The query: one request's immutable inputs and hydrated features."""

from __future__ import annotations

import contextvars
import datetime as dt
import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs

from candidate_pipeline.errors import AbsentFeatureError, FailedFeatureError
from candidate_pipeline.keys import QueryFeature

if TYPE_CHECKING:
    from collections.abc import Iterable

    from candidate_pipeline.patches import QueryPatch

T = TypeVar("T")


def _utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _aware(_instance: object, _attribute: object, now: dt.datetime) -> None:
    if now.tzinfo is None:
        raise ValueError(f"now: wanted a time with a zone, found the naive {now.isoformat()}")


def _frozen(mapping: Mapping[QueryFeature[Any], Any]) -> Mapping[QueryFeature[Any], Any]:
    return MappingProxyType(dict(mapping))


@attrs.frozen(eq=False)
class Query:
    """One request. Every hydrator returns a patch; nothing here is changed in place.

    A feature is present, absent, or failed: its hydrator was skipped, and `failed` says why.

    Args:
        request_id: Names the request in logs and captures.
        now: The request's clock, with a time zone. Components read time from here only.
        seed: The source of all randomness of the request.
        features: Present features and their values.
        failed: Features whose hydrator failed, with the reason.
    """

    request_id: str = attrs.field(factory=lambda: uuid.uuid4().hex[:16])
    now: dt.datetime = attrs.field(factory=_utc_now, validator=_aware)
    seed: int = 0
    features: Mapping[QueryFeature[Any], Any] = attrs.field(factory=dict, converter=_frozen, repr=False)
    failed: Mapping[QueryFeature[Any], str] = attrs.field(factory=dict, converter=_frozen, repr=False)

    @property
    def now_ms(self) -> int:
        """`now` in whole milliseconds since 1970-01-01 UTC, exact (no floating point)."""
        return (self.now - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(milliseconds=1)

    def __getitem__(self, feature: QueryFeature[T]) -> T:
        """The feature's value, or its declared default where it is absent or failed.

        Raises:
            FailedFeatureError: It failed and declares no default.
            AbsentFeatureError: It is absent and declares no default. Within a component that does not declare to
                read it, a default is not given out: nothing says that the value is there by then, if there is one.
        """
        if feature in self.features:
            value: T = self.features[feature]
            return value
        reader = READER.get()
        declared = reader is None or reader[0] is not self or feature in reader[1]
        if feature.has_default and declared:
            return feature.default  # type: ignore[return-value]  # has_default rules out MISSING
        if feature in self.failed:
            raise FailedFeatureError(f"query feature {feature.name} failed: {self.failed[feature]}", feature)
        raise AbsentFeatureError(f"query feature {feature.name} is absent: no component or input gave it", feature)

    def __contains__(self, feature: QueryFeature[Any]) -> bool:
        """Whether the feature is present (neither absent nor failed)."""
        return feature in self.features

    def patched(self, patch: QueryPatch) -> Query:
        """A query with a patch applied; a value wins over an earlier failure."""
        features = {**self.features, **{key: update.value for key, update in patch.updates.items()}}
        failed = {key: why for key, why in self.failed.items() if key not in patch.updates}
        return attrs.evolve(self, features=features, failed=failed)

    def with_failed(self, features: Iterable[QueryFeature[Any]], reason: str) -> Query:
        """A query with features marked failed, except those that have a value already."""
        marked = {key: reason for key in features if key not in self.features}
        return attrs.evolve(self, failed={**self.failed, **marked})


#: While a component runs: the query it was given, and the features it declares to read.
READER: Final[contextvars.ContextVar[tuple[Query, tuple[QueryFeature[Any], ...]] | None]] = contextvars.ContextVar(
    "candidate_pipeline.reader", default=None
)
