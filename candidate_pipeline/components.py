"""The seven kinds of component, resources, and the context a component runs in.

A component is an attrs class: its init fields are its options, `reads` and `writes` name the keys it uses. A plain
`def` is accepted where `async def` is written here; one that computes for long says `blocking = True` and runs in a
thread. What a component may also declare as class attributes:

* `blocking: bool`: run in a bounded pool of threads.
* `listwise: bool` (filters, scorers): the answer on one row depends on other rows; it sees live rows only.
* `safety: bool` (filters): fails closed.
* `async def prepare(query, ctx)` (hydrators, scorers): started beside the sources; its result is `ctx.prepared`. A
  plain `def` of a blocking component runs in one of its threads, as the component itself does.

* `def reason(query, row) -> str` (filters): why it dropped a row, in words with the values that decided, such as
  "posted 3 d 2 h before the request; at most 48 h are kept": half a sentence that completes "dropped, because". It is
  asked by `Outcome.explain` only, never while a request runs, and only about rows that `keep` dropped, so it need not
  decide again. `row[COLUMN]` is a cell as a plain value, `None` where it is null; `row.candidates` is the table of rows
  that were live when the filter ran, of which it is row `row.at`, for filters that compare rows. It must be pure and a
  plain `def`. One that raises hurts nothing: the explanation then says that there is no reason. Of a row that a safety
  filter dropped because a cell had failed it is not asked.
* `in_effect: Mapping[str, Any]` (scorers, selectors): by the names of options that hold numbers, or tables of them,
  what is in effect where the spec leaves them unset, such as the weights of a preset. Searches over a pipeline's
  numbers (`candidate_pipeline.what_if.swap`) start from it.

A resource or component may also have `report`, see `Reporting`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

import attrs
import numpy as np
import structlog

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.errors import MisconfigurationError
from candidate_pipeline.patches import Patch, QueryPatch
from candidate_pipeline.query import Query

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from candidate_pipeline.keys import Key
    from candidate_pipeline.outcome import Outcome

T = TypeVar("T")
MaybeAwaitable: TypeAlias = Awaitable[T] | T


@attrs.frozen
class Context:
    """What a component may use beside its arguments.

    Args:
        component: The component's name in the spec.
        seed: The request's seed.
        deadline: When the answer must be there, in the event loop's time (seconds), if there is a limit: the earliest
            of the component's timeout, its stage's budget and the request's deadline.
        prepared: What the component's own `prepare` returned.
        semantics: Which semantics the pipeline follows.
        idempotency_key: For a side effect, the same text at every try of one request's run of it.
        shared: Whether the answer is kept for other requests (`run.cache`), so that it may not depend on this one's
            seed.
    """

    component: str
    seed: int = 0
    deadline: float | None = None
    prepared: Any = None
    semantics: Literal["strict", "upstream"] = "strict"
    idempotency_key: str = ""
    shared: bool = False

    def rng(self) -> np.random.Generator:
        """A generator that depends on the request's seed and the component's name only.

        Raises:
            MisconfigurationError: The component's answers are cached, so requests of all seeds share them.
        """
        if self.shared:
            raise MisconfigurationError(
                f"{self.component} draws random numbers, but its answers are cached and shared by requests of all "
                "seeds; remove run.cache"
            )
        digest = hashlib.blake2b(self.component.encode(), digest_size=8).digest()
        return np.random.default_rng([self.seed % 2**64, int.from_bytes(digest, "little")])

    def remaining(self) -> float | None:
        """Seconds until the deadline, never negative; `None` without one. Call it from the event loop."""
        return None if self.deadline is None else max(0.0, self.deadline - asyncio.get_running_loop().time())

    @property
    def log(self) -> structlog.stdlib.BoundLogger:
        """A logger that names the component."""
        logger: structlog.stdlib.BoundLogger = structlog.get_logger().bind(component=self.component)
        return logger


class Component(Protocol):
    """What every component has."""

    @property
    def reads(self) -> Collection[Key]:
        """The query features and columns it uses."""

    @property
    def writes(self) -> Collection[Key]:
        """The query features (query hydrators) or columns it writes."""


class QueryHydrator(Component, Protocol):
    """Adds features to the query."""

    def hydrate(self, query: Query, ctx: Context) -> MaybeAwaitable[QueryPatch]:
        """Return the features."""


class Source(Component, Protocol):
    """Finds candidates."""

    def fetch(self, query: Query, ctx: Context) -> MaybeAwaitable[Candidates]:
        """Return a table, best row first."""


class Hydrator(Component, Protocol):
    """Adds columns to candidates."""

    def hydrate(self, query: Query, candidates: Candidates, ctx: Context) -> MaybeAwaitable[Patch]:
        """Return the columns, one cell a row."""


class Filter(Protocol):
    """Drops candidates. Synchronous and pure. One that also has `reason(query, row)` says why, see above."""

    @property
    def reads(self) -> Collection[Key]:
        """The query features and columns it uses."""

    def keep(self, query: Query, candidates: Candidates, ctx: Context) -> NDArray[np.bool_]:
        """Return `bool[n]`: true for rows to keep."""


class Scorer(Component, Protocol):
    """Writes scores or predictions."""

    def score(self, query: Query, candidates: Candidates, ctx: Context) -> MaybeAwaitable[Patch]:
        """Return the columns, one cell a row."""


class Selector(Protocol):
    """Chooses and orders the rows to return. Synchronous and pure."""

    @property
    def reads(self) -> Collection[Key]:
        """The query features and columns it uses."""

    def select(self, query: Query, candidates: Candidates, ctx: Context) -> NDArray[np.intp]:
        """Return the indices of the chosen rows, best first, without repeats."""


class SideEffect(Protocol):
    """Acts on the outcome after the response."""

    @property
    def reads(self) -> Collection[Key]:
        """The query features and columns it uses."""

    def run(self, query: Query, outcome: Outcome, ctx: Context) -> MaybeAwaitable[None]:
        """Do it; the response does not wait."""


@runtime_checkable
class Resource(Protocol):
    """A long-lived object that components share: a table, a store, a model, an index.

    It is an attrs class like a component; a field of another component typed with the class is filled by name from
    `[resources.*]`. `open` may take long (it loads, builds and warms up) and runs once, after the resources it uses.
    """

    def open(self) -> MaybeAwaitable[None]:
        """Get ready."""

    def close(self) -> MaybeAwaitable[None]:
        """Let go of everything."""


#: What a report may say.
ReportValue: TypeAlias = str | int | float | None


@runtime_checkable
class Reporting(Protocol):
    """A resource or component that says something about itself: which variant it is, counts, hit rates, sizes."""

    def report(self) -> Mapping[str, ReportValue]:
        """Plain values by name, in the order to show them; names are words with underscores.

        A last word `bytes`, `ms` or `rate` (a share of 1) says how a number is shown. It is asked while the application
        is open, between requests or during them, possibly from another thread, and must be cheap: no input or output.
        """


#: The method that each kind's work is done in.
METHODS = {
    "query_hydrator": "hydrate",
    "source": "fetch",
    "hydrator": "hydrate",
    "filter": "keep",
    "scorer": "score",
    "selector": "select",
    "side_effect": "run",
}
