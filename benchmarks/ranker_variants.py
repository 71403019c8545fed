"""What `ranker.py` compares: the published forward, our backends, and the same algorithm in other libraries."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Literal, Protocol

import attrs
import numpy as np
import numpy.typing as npt
from ranker_models import CHUNK, Case, Work
from ranker_published import Published

from phoenix_recsys.artifact import Artifact
from phoenix_recsys.backend import PRECISIONS, BackendOptions, Precision, RankerBackend
from phoenix_recsys.backend_registry import make_backend
from phoenix_recsys.requests import History, Items, Scores

MEBIBYTE: Final = 1 << 20
#: Requests in turn: with so many, rows that one of them looked up have left the caches before it comes again.
ROTATION: Final = 24
JITTED_CHUNKS: Final = f"published jitted chunks of {CHUNK}"
EAGER_CHUNKS: Final = f"published eager chunks of {CHUNK}"
ONE_SHOT: Final = "published jitted one shot"
KNOWN: Final = "kv_cache items known"
PEER_NAMES: Final = ("torch", "torch compiled", "onnxruntime")
#: Layers that torch compiles within seconds; of twelve it takes minutes.
MOST_COMPILED: Final = 4
REFERENCE: Final = (ONE_SHOT, "float32")
PUBLISHED: Final = (ONE_SHOT, "bfloat16")
#: Error of logits against the published forward in float32, mean and largest, above which a variant is not timed.
TOLERANCES: Final = {"float32": (1e-3, 1e-3), "bfloat16": (0.03, 0.6), "int8": (0.08, 1.0)}
#: Of whom no backend has a cached viewer.
NEW_USERS: Final = itertools.count(1_000_000)
Kind = Literal["chunked", "dense", "split", "prefix", "known"]


class Server(Protocol):
    """What all of them have."""

    def prepare(self, user_id: int, history: History) -> Any:
        """What can be done before candidates are known."""

    def score_prepared(self, viewer: Any, items: Items) -> Any:
        """Scores, or logits alone."""


@attrs.frozen(eq=False)
class Variant:
    """One row of the tables.

    Attributes:
        name: what it is.
        precision: of its products.
        kind: which products it computes.
        server: serves it.
    """

    name: str
    precision: str
    kind: Kind
    server: Server

    @property
    def prepares(self) -> bool:
        """Whether preparing a viewer saves work, so that there is a warm time."""
        return self.kind in {"prefix", "known"}

    @property
    def chunked(self) -> bool:
        """Whether it may be timed in part: it takes the same time for every chunk."""
        return self.kind == "chunked"

    @property
    def eager(self) -> bool:
        """Whether it runs op by op."""
        return self.name in {EAGER_CHUNKS, "eager"}

    def flop(self, work: Work, candidates: int, events: int, *, warm: bool) -> float:
        """Of its own products; a history with fewer events than places counts as if it had none to spare."""
        if self.kind == "chunked":
            return work.chunked(candidates, events)
        if self.kind == "dense":
            return work.dense(candidates, events)
        if self.kind == "split":
            return work.split(candidates, events)
        score = work.score(candidates, events, known=self.kind == "known")
        return score if warm else score + work.encode(events)


def logits_of(found: Any) -> npt.NDArray[np.float32]:
    """Of scores or of logits."""
    return found.logits if isinstance(found, Scores) else np.asarray(found)


def buckets(case: Case) -> tuple[int, ...]:
    """Candidate counts to compile for: large ones rounded up, as a server would."""
    return tuple(count if count <= 256 else count + -count % 128 for count in case.size.candidates)


def variants_of(case: Case, wanted: Callable[[str], bool]) -> list[Variant]:
    """All variants of a model whose label `wanted` accepts; of those that are not installed there are none."""
    found: list[Variant] = []

    def add(name: str, precision: str, kind: Kind, make: Callable[[], Server]) -> None:
        if wanted(f"{name} {precision}"):
            found.append(Variant(name, precision, kind, make()))

    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    for dtype in dtypes:
        published = partial(Published, case.artifact, dtype)
        add(ONE_SHOT, dtype, "dense", partial(published, buckets(case), jitted=True))
        add(EAGER_CHUNKS, dtype, "chunked", partial(published, (CHUNK,), jitted=False))
        add(JITTED_CHUNKS, dtype, "chunked", partial(published, (CHUNK,), jitted=True))
    kinds: dict[str, Kind] = {"eager": "dense", "jit": "split", "kv_cache": "prefix"}
    for (backend, kind), precision in itertools.product(kinds.items(), PRECISIONS):
        add(backend, precision, kind, partial(backend_of, case, backend, precision))
    for precision in PRECISIONS:
        known = partial(backend_of, case, "kv_cache", precision, item_cache_bytes=512 * MEBIBYTE)
        add(KNOWN, precision, "known", known)
    for name, products, make in peers(case.size.layers):
        add(name, products, "prefix", partial(make, case.artifact))
    return found


def backend_of(case: Case, name: str, precision: Precision, **options: Any) -> RankerBackend:
    """A backend of this project for a model."""
    artifact = case.quantized if precision == "int8" else case.artifact
    given = {"candidate_buckets": buckets(case), **options}
    return make_backend(name, artifact, BackendOptions(precision, **given))


def installed(*packages: str) -> bool:
    """Whether packages can be imported."""
    return all(importlib.util.find_spec(package) is not None for package in packages)


def peers(layers: int) -> Iterator[tuple[str, str, Callable[[Artifact], Server]]]:
    """Names, precisions and makers of the peers that are installed, for a model of so many layers."""
    if installed("torch"):
        from ranker_torch import TorchRanker

        yield "torch", "bfloat16", lambda artifact: TorchRanker(artifact, "bfloat16")
        if layers <= MOST_COMPILED:
            yield "torch compiled", "bfloat16", lambda artifact: TorchRanker(artifact, "bfloat16", compiled=True)
    if installed("onnx", "onnxruntime"):
        from ranker_onnx import OnnxRanker

        yield "onnxruntime", "float32", OnnxRanker
        yield "onnxruntime", "int8", lambda artifact: OnnxRanker(artifact, int8=True)


def histories(case: Case, events: int | None = None) -> list[History]:
    """Of the rotation, full unless stated."""
    return [case.history(events, seed=seed) for seed in range(ROTATION)]


def lists(case: Case, candidates: int) -> list[Items]:
    """Items of the rotation."""
    return [case.items(candidates, seed=seed) for seed in range(ROTATION)]


def cold(variant: Variant, asked: list[History], items: list[Items]) -> Callable[[], Any]:
    """A program that scores for a viewer never seen before, from ids to probabilities."""
    server, turns = variant.server, itertools.count()

    def run() -> Any:
        user, turn = next(NEW_USERS), next(turns)
        history, wanted = asked[turn % len(asked)], items[turn % len(items)]
        if isinstance(server, RankerBackend):
            return server.score(user, history, wanted)
        return server.score_prepared(server.prepare(user, history), wanted)

    return run


def warm(variant: Variant, asked: list[History], items: list[Items]) -> Callable[[], Any]:
    """A program that scores for prepared viewers, from ids to probabilities."""
    # Few, since those of a large model hold hundreds of megabytes.
    viewers = [variant.server.prepare(user, history) for user, history in enumerate(asked[:8], 1)]
    turns = itertools.count()

    def run() -> Any:
        turn = next(turns)
        return variant.server.score_prepared(viewers[turn % len(viewers)], items[turn % len(items)])

    return run


@attrs.frozen
class Check:
    """How far a variant's logits are from those of the published forward in float32.

    Attributes:
        mean: of the absolute differences.
        largest: of them.
        precision: of products.
        slack: how many times the tolerated mean is tolerated, see :func:`slack_of`.
    """

    mean: float
    largest: float
    precision: str
    slack: float = 1.0

    @property
    def passed(self) -> bool:
        """Within the tolerance of its precision."""
        mean, largest = TOLERANCES[self.precision]
        return self.mean <= (mean if self.precision == "float32" else mean * self.slack) and self.largest <= largest


def slack_of(published: Check) -> float:
    """How much more is tolerated of reduced precisions, by the error of the published forward in bfloat16.

    The tolerances are those of two to four layers. Roundings add up with depth, in whatever order they are made: where
    the published forward itself errs by more than its tolerance, others may err by a fifth more than it does.
    """
    return max(1.0, 1.2 * published.mean / TOLERANCES["bfloat16"][0])


def check(
    variant: Variant, wanted: npt.NDArray[np.float32], history: History, items: Items, slack: float = 1.0
) -> Check:
    """Compare logits of one request; a variant that is timed in part is compared in part."""
    rows = slice(0, CHUNK) if variant.chunked and variant.eager else slice(None)
    some = take(items, rows)
    server = variant.server
    error = np.abs(logits_of(server.score_prepared(server.prepare(1, history), some)) - wanted[rows])
    return Check(float(error.mean()), float(error.max()), variant.precision, slack)


def take(items: Items, rows: slice) -> Items:
    """Some of the items."""
    fields: dict[str, Any] = {
        name: None if field is None else field[rows] for name, field in attrs.asdict(items, recurse=False).items()
    }
    return Items(**fields)


def in_chunks(items: Items, chunks: int) -> Items:
    """The first chunks of the items."""
    return take(items, slice(0, chunks * CHUNK))
