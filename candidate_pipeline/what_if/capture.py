"""Captures: what a request was given and what its components found, kept so that it can be ranked again.

    app = load("pipelines.toml", captures=Captures("captures", sample=0.01))
    outcome = await app["for_you"].run(viewer=42, capture=True)

    for capture in captures_in("captures"):
        print(capture.request_id, capture.ranking.selected)

A capture holds a user's data: what the query hydrators found of the user, and what was ranked. Folders of captures are
made for their owner alone (mode 0700), and so are the files (0600).
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs
from numpy.typing import NDArray

from candidate_pipeline.errors import CaptureError, ContractError, DataError
from candidate_pipeline.query import Query
from candidate_pipeline.what_if.archive import MAX_FILE, unpack
from candidate_pipeline.what_if.codec import decode
from candidate_pipeline.what_if.ranking import Ranking

if TYPE_CHECKING:
    from candidate_pipeline.keys import QueryFeature

T = TypeVar("T")

#: The version of the files' contents.
SCHEMA: Final = 1
#: What a manifest says it is.
FORMAT: Final = "candidate-pipeline capture"
SUFFIX: Final = ".capture"


def _a_share(_instance: object, _attribute: object, found: float) -> None:
    if not 0 <= found <= 1:
        raise ValueError(f"sample: wanted a share from 0 to 1, found {found}")


@attrs.frozen
class Captures:
    """Where requests are recorded, and which.

    Args:
        folder: The folder of captures, which is made if it is not there.
        sample: The share of requests that is recorded, 0 to 1. Whether one is depends on its request id alone.
        max_bytes: The longest file, in bytes; a request that would need a longer one is not recorded.
        max_pending: How many captures may wait to be written; further sampled ones are left out.
    """

    folder: Path = attrs.field(converter=Path)
    sample: float = attrs.field(default=0.0, validator=_a_share)
    max_bytes: int = MAX_FILE
    max_pending: int = 64

    def sampled(self, request_id: str) -> bool:
        """Whether a request is among those that are recorded."""
        if not self.sample:
            return False
        digest = hashlib.blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "little") < self.sample * 2.0**64


@attrs.frozen(eq=False)
class RecordedCall:
    """One recorded call of a component.

    Args:
        refill: The round of refilling it was made in.
        error: Why it failed; `None` if it answered.
        late: Whether its time ran out.
        outside: Whether what it failed for was not its own doing.
        asked: The digest of the query features that it read.
        ids: The name of the array of the rows' ids, if it was given rows.
        digests: The name of the array of digests of what it read of each row.
        features: The query features that it answered with, encoded, by name.
        columns: The columns that it answered with, encoded.
        failed: The name of the array of rows that failed, if some did.
        uncaptured: Why keys that it wrote are not in the capture, by their name.
    """

    refill: int
    error: str | None
    late: bool
    outside: bool
    asked: str
    ids: str | None
    digests: str | None
    features: Mapping[str, Any] | None
    columns: tuple[Mapping[str, Any], ...] | None
    failed: str | None
    uncaptured: Mapping[str, str]


@attrs.frozen(eq=False)
class RecordedComponent:
    """What is recorded of one component.

    Args:
        place: Where it stands, such as `hydrators/feed.items`.
        name: Its name.
        use: Its registered name.
        kind: Its kind.
        fingerprint: The hash of what it is and how it is set.
        status: How its last call ended: `ok`, `skipped`, `fallback`, `closed`; empty: it was never called.
        error: Why, if it was not `ok`.
        calls: Its calls, in order.
    """

    place: str
    name: str
    use: str
    kind: str
    fingerprint: str
    status: str
    error: str
    calls: tuple[RecordedCall, ...]


@attrs.frozen(eq=False)
class Recording:
    """What is recorded of a pipeline.

    Args:
        pipeline: Its name.
        config_hash: The hash of what decided how it ranks.
        components: Its components, by where they stand.
        inner: What is recorded of nested pipelines, by where their component stands.
    """

    pipeline: str
    config_hash: str
    components: Mapping[str, RecordedComponent]
    inner: Mapping[str, Recording]

    def uncaptured(self) -> Iterator[tuple[str, str, str]]:
        """What components wrote and the capture lacks: component, key and reason."""
        for component in self.components.values():
            for call in component.calls:
                for key, why in call.uncaptured.items():
                    yield component.name, key, why
        for inner in self.inner.values():
            yield from inner.uncaptured()


@attrs.frozen(eq=False)
class Capture:
    """One request as it was recorded.

    Args:
        pipeline: The pipeline that answered.
        request_id: The request's id.
        now: Its clock.
        seed: Its seed.
        inputs: Its inputs, encoded, by the name of the query feature.
        uncaptured: Why inputs are not in the capture, by the name of the query feature.
        config_hash: The hash of what decided how it was ranked.
        dataset: The name of the data set that it was served from; empty where there was none.
        plugins: The versions of the distributions that took part.
        recording: What its components answered.
        ranking: How it was ranked.
        arrays: The arrays that the others name.
        path: Where it was read from.
    """

    pipeline: str
    request_id: str
    now: dt.datetime
    seed: int
    inputs: Mapping[str, Any] = attrs.field(repr=False)
    uncaptured: Mapping[str, str] = attrs.field(repr=False)
    config_hash: str
    dataset: str
    plugins: Mapping[str, str] = attrs.field(repr=False)
    recording: Recording = attrs.field(repr=False)
    ranking: Ranking = attrs.field(repr=False)
    arrays: Mapping[str, NDArray[Any]] = attrs.field(repr=False)
    path: Path | None = None

    @classmethod
    def read(cls, path: str | Path) -> Capture:
        """Read a file.

        Raises:
            CaptureError: It is no capture, damaged, of another schema, or larger than captures may be.
        """
        where = Path(path)
        manifest, arrays = unpack(where)
        try:
            return attrs.evolve(capture_of(manifest, arrays), path=where)
        except CaptureError as error:
            raise CaptureError(f"{where}: {error}") from error

    def query(self, features: Iterable[QueryFeature[Any]] | None = None) -> Query:
        """The query as it came: id, clock, seed and inputs.

        Args:
            features: The query features that inputs may be; default: those of installed plugins. An input that is
                none of them is left out.

        Raises:
            CaptureError: An input was not captured, or is not what its query feature says.
        """
        if features is None:
            from candidate_pipeline.keys import QueryFeature as Feature
            from candidate_pipeline.registry import installed

            features = [key for key in installed().keys().values() if isinstance(key, Feature)]
        given = {}
        for feature in features:
            if feature.name in self.uncaptured:
                raise CaptureError(f"the input {feature.name} was not captured: {self.uncaptured[feature.name]}")
            if feature.name in self.inputs:
                given[feature] = decode_feature(feature, self.inputs[feature.name], self.arrays)
        return Query(request_id=self.request_id, now=self.now, seed=self.seed, features=given)


def decode_feature(feature: QueryFeature[Any], found: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """The value of a query feature.

    Raises:
        CaptureError: It is not of the feature's type.
    """
    try:
        return feature(decode(found, feature.type, arrays)).value
    except (CaptureError, ContractError) as error:
        raise CaptureError(f"query feature {feature.name}: {error}") from error


def captures_in(folder: str | Path) -> Iterator[Capture]:
    """The captures of a folder, in the order of their names.

    Raises:
        CaptureError: There is no such folder, or a capture in it cannot be read.
    """
    for path in capture_paths(folder):
        yield Capture.read(path)


def capture_paths(place: str | Path) -> list[Path]:
    """The capture files of a folder, in the order of their names; of a file itself.

    Raises:
        CaptureError: There is nothing at that place.
    """
    where = Path(place)
    if where.is_dir():
        return sorted((path for path in where.iterdir() if path.name.endswith(SUFFIX)), key=lambda path: path.name)
    if not where.exists():
        raise CaptureError(f"{where}: no such file or folder")
    return [where]


def capture_of(manifest: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Capture:
    """A capture of its manifest and its arrays.

    Raises:
        CaptureError: The manifest says what a manifest does not.
    """
    if manifest.get("format") != FORMAT:
        raise CaptureError(f"wanted the format {FORMAT!r}, found {manifest.get('format')!r:.80}")
    if manifest.get("schema") != SCHEMA:
        raise CaptureError(f"wanted schema {SCHEMA}, found {manifest.get('schema')!r:.80}: written by another version")
    try:
        now = dt.datetime.fromisoformat(_get(manifest, "now", str))
        if now.tzinfo is None or not -(10**18) < now.timestamp() < 10**18:
            raise ValueError("a time without a zone")
    except (ValueError, OverflowError) as error:
        raise CaptureError(f"now: wanted a time, found {manifest.get('now')!r:.80}: {error}") from error
    recording = _recording(_get(manifest, "recording", dict), 0)
    try:
        header = _get(manifest, "ranking", dict)
        named = _texts(_get(manifest, "ranking_arrays", dict), "ranking_arrays")
        ranking = Ranking.from_arrays(header, {name: _known(arrays, each) for name, each in named.items()})
    except CaptureError:
        raise
    except (DataError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise CaptureError(f"ranking: {error}") from error
    return Capture(
        pipeline=recording.pipeline,
        request_id=_get(manifest, "request_id", str),
        now=now,
        seed=_get(manifest, "seed", int),
        inputs=_get(manifest, "inputs", dict),
        uncaptured=_texts(_get(manifest, "uncaptured", dict), "uncaptured"),
        config_hash=recording.config_hash,
        dataset=_get(manifest, "dataset", str),
        plugins=_texts(_get(manifest, "plugins", dict), "plugins"),
        recording=recording,
        ranking=ranking,
        arrays=arrays,
    )


def _recording(found: Mapping[str, Any], depth: int) -> Recording:
    if depth > 16:
        raise CaptureError("pipelines are nested more than 16 deep")
    components = {}
    for entry in _tables(_get(found, "components", list), "components"):
        component = _component(entry)
        if component.place in components:
            raise CaptureError(f"components: {component.place!r:.80} stands twice")
        components[component.place] = component
    inner = {}
    for place, each in _get(found, "inner", dict).items():
        if place not in components or not isinstance(each, dict):
            raise CaptureError(f"inner: wanted the recording of a component, found {place!r:.80}")
        inner[place] = _recording(each, depth + 1)
    return Recording(_get(found, "pipeline", str), _get(found, "config_hash", str), components, inner)


def _component(found: Mapping[str, Any]) -> RecordedComponent:
    texts = {
        name: _get(found, name, str) for name in ("place", "name", "use", "kind", "fingerprint", "status", "error")
    }
    calls = tuple(_call(each) for each in _tables(_get(found, "calls", list), "calls"))
    return RecordedComponent(**texts, calls=calls)


def _call(found: Mapping[str, Any]) -> RecordedCall:
    features = found.get("features")
    if features is not None and not isinstance(features, dict):
        raise CaptureError(f"features: wanted a table, found {features!r:.80}")
    columns = found.get("columns")
    return RecordedCall(
        refill=_get(found, "refill", int),
        error=_get(found, "error", str, optional=True),
        late=_get(found, "late", bool),
        outside=_get(found, "outside", bool),
        asked=_get(found, "asked", str),
        ids=_get(found, "ids", str, optional=True),
        digests=_get(found, "digests", str, optional=True),
        features=features,
        columns=None if columns is None else tuple(_tables(columns, "columns")),
        failed=_get(found, "failed", str, optional=True),
        uncaptured=_texts(_get(found, "uncaptured", dict), "uncaptured"),
    )


def _get(found: Mapping[str, Any], name: str, kind: type[T], *, optional: bool = False) -> T:
    value = found.get(name)
    if type(value) is not kind and not (optional and value is None):
        raise CaptureError(f"{name}: wanted {kind.__name__}, found {value!r:.80}")
    return value  # type: ignore[return-value]  # None where that is optional


def _texts(found: Mapping[str, Any], name: str) -> dict[str, str]:
    for each in found.values():
        if not isinstance(each, str):
            raise CaptureError(f"{name}: wanted texts, found {each!r:.80}")
    return dict(found)


def _tables(found: Any, name: str) -> list[Mapping[str, Any]]:
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise CaptureError(f"{name}: wanted a list of tables, found {found!r:.80}")
    return found


def _known(arrays: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    array = arrays.get(name)
    if array is None:
        raise CaptureError(f"it has no array {name!r:.80}")
    return array
