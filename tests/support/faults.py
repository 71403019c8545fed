"""A pipeline with a component in every stage, one of which can be made to fail in every way there is.

The component under test is called `x`, its fallback `spare`; all others are bystanders. Items 1 to 8 come from two
bystanding sources, are scored by their ids, and lose 2 and 3 to filters and 7 and 8 to filters after selection.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import attrs
import numpy as np
from toys import best_by_rules

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    App,
    Candidates,
    Column,
    MisconfigurationError,
    QueryFeature,
    RequestError,
    RunPolicy,
    StageOptions,
    compose,
    patch,
    query_patch,
    rank_order,
)
from candidate_pipeline.components import METHODS

Mode = Literal["plain", "async", "thread", "cached", "breaker"]
Semantics = Literal["strict", "upstream"]

FRIENDS = QueryFeature("fault.friends", np.ndarray)
NEAR = QueryFeature("fault.near", int)
FAR = QueryFeature("fault.far", int)
MADE = QueryFeature("fault.made", float)
NOBODY = QueryFeature("fault.nobody", int)
X = Column("fault.x", np.float32)
ODDS = Column("fault.odds", np.float32, labels=("buy", "look"))
TWICE = Column("fault.twice", np.float32)
THRICE = Column("fault.thrice", np.float32)
AFTER = Column("fault.after", np.float32)
SHOWN = Column("fault.shown", np.float32)
SHADE = Column("fault.shade", np.float32)
GONE = Column("fault.gone", np.float32)

#: What bystanders write, by column: so many times the id.
TIMES: Final[Mapping[Column[Any], int]] = {TWICE: 2, THRICE: 3, SCORE: 1, AFTER: 5, SHOWN: 7, SHADE: 11}

#: The component's own timeout, its stage's, and the request's, in milliseconds of the loop's clock.
LIMIT_MS: Final = 50
#: How long what blocks the event loop blocks it, in seconds: longer than the engine lets pass without a note.
HELD: Final = 0.06


@attrs.frozen
class Place:
    """Where `x` stands.

    Args:
        name: What the place is called here.
        kind: The kind of component.
        stage: Its stage.
        safety: Whether it is a safety filter.
        sync: Whether it is a side effect that the response waits for.
    """

    name: str
    kind: Any
    stage: str
    safety: bool = False
    sync: bool = False

    @property
    def modes(self) -> tuple[Mode, ...]:
        """How a component can be there: as a plain def, async def, in a thread, cached, behind a breaker."""
        if self.kind in {"filter", "selector"}:
            return ("plain", "thread")
        if self.kind == "side_effect":
            return ("plain", "async", "thread")
        return ("plain", "async", "thread", "breaker") if self.kind == "scorer" else MODES

    @property
    def writes(self) -> tuple[Any, ...]:
        """What `x` declares."""
        if self.kind in {"filter", "selector", "side_effect"}:
            return ()
        return {"query_hydrator": (MADE,), "scorer": (X, ODDS, SCORE)}.get(self.kind, (X, ODDS))

    @property
    def background(self) -> bool:
        """Whether the response does not wait for it."""
        return self.kind == "side_effect" and not self.sync


MODES: Final[tuple[Mode, ...]] = ("plain", "async", "thread", "cached", "breaker")
PLACES: Final = (
    Place("query hydrator", "query_hydrator", "query_hydrators"),
    Place("source", "source", "sources"),
    Place("hydrator", "hydrator", "hydrators"),
    Place("filter", "filter", "filters"),
    Place("safety filter", "filter", "filters", safety=True),
    Place("scorer", "scorer", "scorers"),
    Place("selector", "selector", "selector"),
    Place("late hydrator", "hydrator", "post_selection_hydrators"),
    Place("late filter", "filter", "post_selection_filters"),
    Place("late safety filter", "filter", "post_selection_filters", safety=True),
    Place("side effect", "side_effect", "side_effects"),
    Place("sync side effect", "side_effect", "side_effects", sync=True),
)
DEPENDENT: Final = Place("dependent query hydrator", "query_hydrator", "dependent_query_hydrators")


@attrs.define
class Probe:
    """What a test sees of `x` from outside, and how it lets go of it.

    Args:
        calm: Whether `x` does its work for once.
        calls: How often it was called.
        cancelled: How often it was cancelled.
        entered: Set when it is called, seen from the event loop.
        go: Lets go of a thread that hangs.
        released: Lets go of what swallows its cancellation.
        effects: The bystanding side effects that ran.
    """

    calm: bool = False
    calls: int = 0
    cancelled: int = 0
    entered: asyncio.Event = attrs.field(factory=asyncio.Event)
    go: threading.Event = attrs.field(factory=threading.Event)
    released: asyncio.Event = attrs.field(factory=asyncio.Event)
    effects: list[str] = attrs.field(factory=list)


@attrs.frozen
class Call:
    """A call of `x`: its place, its probe and its arguments."""

    place: Place
    probe: Probe
    query: Any
    rows: Any
    ctx: Any

    @property
    def ids(self) -> Any:
        """The item ids it is given."""
        return self.rows[ITEM_ID]


@attrs.frozen
class Fault:
    """A way to go wrong.

    Args:
        name: What it is called.
        act: Goes wrong; may return what is to be awaited.
        ends: Whose rule holds: that for errors, for timeouts, for what ends every request, or for correct answers.
        cause: What the trace says of it.
        kinds: The kinds of component that can go wrong so; default: all.
        modes: The modes in which they can.
        prepare: Whether it goes wrong in `prepare`.
    """

    name: str
    act: Callable[[Call], Any]
    ends: Literal["error", "late", "loud", "harmless"] = "error"
    cause: str = ""
    kinds: frozenset[str] = frozenset(METHODS) - {"resource"}
    modes: frozenset[Mode] = frozenset(MODES)
    prepare: bool = False

    def fits(self, place: Place, mode: Mode) -> bool:
        """Whether a component can go wrong so."""
        return place.kind in self.kinds and mode in self.modes and mode in place.modes


def answer(call: Call, value: int) -> Any:
    """What a component of its kind answers that does its work: `x` with 1, `spare` with 2."""
    kind = call.place.kind
    if kind == "query_hydrator":
        return query_patch(MADE(float(value)))
    if kind == "source":
        return Candidates.of(
            ITEM_ID([100 * value + 1, 100 * value + 2]), X([value, value]), ODDS([[0.5, 0.5], [0.5, 0.5]])
        )
    if kind == "filter":
        return call.ids != 3 + value
    if kind == "selector":
        return rank_order(call.rows, call.ctx.semantics)[: 6 - value]
    if kind == "side_effect":
        call.probe.effects.append(call.ctx.component)
        return None
    n = len(call.rows)
    updates = [X(np.full(n, value, np.float32)), ODDS(np.full((n, 2), 0.5, np.float32))]
    return patch(*updates, SCORE(call.ids.astype(np.float32))) if kind == "scorer" else patch(*updates)


def _raising(make: Callable[[], BaseException]) -> Callable[[Call], Any]:
    def act(call: Call) -> Any:
        raise make()

    return act


async def _hang(call: Call) -> Any:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        call.probe.cancelled += 1
        raise


async def _swallow(call: Call) -> Any:
    while not call.probe.released.is_set():
        try:
            await call.probe.released.wait()
        except asyncio.CancelledError:
            call.probe.cancelled += 1
    return None


async def _late_answer(call: Call) -> Any:
    await asyncio.sleep(0)
    return answer(call, 1)


def _hang_thread(call: Call) -> Any:
    if not call.probe.go.wait(30):
        raise AssertionError("nobody let go of the thread")
    return answer(call, 1)


def _hold(call: Call) -> Any:
    time.sleep(HELD)
    return answer(call, 1)


def _wrong_length(call: Call) -> Any:
    if call.place.kind == "source":
        return Candidates.of(ITEM_ID([1, 2, 3]), X([1.0]))
    n = len(call.rows) + 1
    if call.place.kind == "filter":
        return np.ones(n, np.bool_)
    return np.arange(n) if call.place.kind == "selector" else patch(X(np.ones(n, np.float32)))


def _wrong_dtype(call: Call) -> Any:
    kind = call.place.kind
    if kind == "query_hydrator":
        return query_patch(MADE("one"))  # type: ignore[arg-type]  # the fault
    if kind == "source":
        return Candidates.of(ITEM_ID(["1", "2"]))
    n = len(call.rows)
    if kind == "filter":
        return np.ones(n, np.int8)
    return np.ones(n, np.float64) if kind == "selector" else patch(X(np.array(["1"] * n)))


def _nan(call: Call) -> Any:
    kind = call.place.kind
    if kind == "source":
        return Candidates.of(ITEM_ID([101]), ODDS([[np.nan, 1.0]]))
    odds = np.full((len(call.rows), 2), np.nan, np.float32)
    return np.full(len(call.rows), np.nan) if kind in {"filter", "selector"} else patch(ODDS(odds))


def _undeclared_write(call: Call) -> Any:
    if call.place.kind == "query_hydrator":
        return query_patch(NOBODY(1))
    if call.place.kind == "source":
        return Candidates.of(ITEM_ID([101]), GONE([1.0]))
    return patch(GONE(np.ones(len(call.rows), np.float32)))


def _write_friends(call: Call) -> Any:
    call.query[FRIENDS][0] = 99
    raise AssertionError("the array could be written to")


def _write_features(call: Call) -> Any:
    call.query.features[NEAR] = 99
    raise AssertionError("the features could be changed")


def _write_ids(call: Call) -> Any:
    rows = call.rows.selected if call.place.kind == "side_effect" else call.rows
    rows[ITEM_ID][0] = 99
    raise AssertionError("the column could be written to")


def _vandalise(call: Call) -> Any:
    """Change whatever can be reached, carry on where that is refused, then do the work."""
    result = answer(call, 1)
    rows = call.rows.selected if call.place.kind == "side_effect" else call.rows
    arrays = [call.query[FRIENDS]]
    if rows is not None:
        arrays += [rows[column] for column in rows.columns]
        arrays += [rows.alive, rows.source_bits, rows.dropped_by, rows.valid(ITEM_ID), rows.failed(ITEM_ID)]
        arrays += [state for column in rows.columns if (state := rows.cells(column).state) is not None]
    for array in arrays:
        try:
            array[...] = 1
        except ValueError:
            continue
    for name in ("seed", "features", "now"):
        try:
            setattr(call.query, name, None)
        except AttributeError:
            continue
    return result


def _read_column(call: Call) -> Any:
    return call.rows[GONE]


def _read_feature(call: Call) -> Any:
    return call.query[NOBODY]


def _nan_answer(call: Call) -> Any:
    """NaN where NaN may be."""
    if call.place.kind == "query_hydrator":
        return query_patch(MADE(float("nan")))
    if call.place.kind == "source":
        return Candidates.of(ITEM_ID([101, 102]), X([np.nan, np.nan]))
    n = np.full(len(call.rows), np.nan, np.float32)
    odds = ODDS(np.full((len(n), 2), 0.5, np.float32))
    return patch(X(n), SCORE(n), odds) if call.place.kind == "scorer" else patch(X(n), odds)


AWAITED: Final[frozenset[Mode]] = frozenset({"async", "cached", "breaker"})
_WRITERS: Final = frozenset({"query_hydrator", "source", "hydrator", "scorer"})
_ROWS: Final = frozenset({"hydrator", "filter", "scorer", "selector"})
_ARRAYS: Final = frozenset({"source", *_ROWS})
_CHECKED: Final = frozenset({*_WRITERS, "filter", "selector"})
_PREPARING: Final = frozenset({"hydrator", "scorer"})
_UNCACHED: Final[frozenset[Mode]] = frozenset(MODES) - {"cached"}
READ: Final = "does not declare"

#: What ends at once, or is no fault in the end.
FAULTS: Final = (
    Fault("ValueError", _raising(lambda: ValueError("boom")), cause="ValueError: boom"),
    Fault("KeyError", _raising(lambda: KeyError("boom")), cause="KeyError: 'boom'"),
    Fault("MemoryError", _raising(lambda: MemoryError("boom")), cause="MemoryError: boom"),
    Fault("StopIteration", _raising(lambda: StopIteration("boom")), cause="StopIteration"),
    Fault("TimeoutError", _raising(lambda: TimeoutError("boom")), cause="TimeoutError: boom"),
    Fault("CancelledError", _raising(lambda: asyncio.CancelledError("boom")), cause="ancelled"),
    Fault("RequestError", _raising(lambda: RequestError("no viewer 7")), "loud", "no viewer 7"),
    Fault("MisconfigurationError", _raising(lambda: MisconfigurationError("no table")), "loud", "no table"),
    Fault("wrong length", _wrong_length, cause="wanted", kinds=_ARRAYS),
    Fault("wrong dtype", _wrong_dtype, cause="wanted", kinds=_CHECKED),
    Fault("returns None", lambda call: None, cause="wanted", kinds=_CHECKED),
    Fault("returns a list", lambda call: ["a"], cause="wanted", kinds=_CHECKED),
    Fault("NaN", _nan, cause="", kinds=_ARRAYS),
    Fault("NaN allowed", _nan_answer, "harmless", kinds=_WRITERS),
    Fault("undeclared write", _undeclared_write, cause="which its writes do not declare", kinds=_WRITERS),
    Fault("undeclared feature", _read_feature, "loud", READ),
    Fault("undeclared column", _read_column, "loud", READ, _ROWS),
    Fault("writes to an array of the query", _write_friends, cause="read-only"),
    Fault("writes to the query", _write_features, cause="item assignment"),
    Fault("writes to a column", _write_ids, cause="read-only", kinds=_ROWS | {"side_effect"}),
    Fault("vandal", _vandalise, "harmless"),
    Fault("returns a coroutine", _late_answer, "harmless", modes=frozenset({"plain"})),
    Fault("coroutine from a thread", _late_answer, "error", "returned a coroutine", modes=frozenset({"thread"})),
    Fault(
        "raises in prepare", _raising(lambda: OSError("boom")), "error", "OSError: boom", _PREPARING, _UNCACHED, True
    ),
    Fault("wrong input in prepare", _write_friends, "error", "read-only", _PREPARING, _UNCACHED, True),
    Fault("undeclared read in prepare", _read_feature, "loud", READ, _PREPARING, _UNCACHED, True),
)
#: What never ends by itself.
HANGING: Final = (
    Fault("hangs", _hang, "late", "timed out after 50 ms", modes=AWAITED),
    Fault("swallows its cancellation", _swallow, "late", "timed out after 50 ms", modes=AWAITED),
    Fault("swallows in prepare", _swallow, "late", "timed out after ", _PREPARING, frozenset({"async"}), True),
    Fault("hangs in prepare", _hang, "late", "timed out after ", _PREPARING, frozenset({"async"}), True),
)
HANGING_LATER: Final = Fault("returns a coroutine that hangs", _hang, "late", modes=frozenset({"plain"}))
HANGING_THREAD: Final = Fault("hangs in a thread", _hang_thread, "late", "timed out after", modes=frozenset({"thread"}))
HOLDING: Final = Fault("holds the loop", _hold, "harmless", modes=frozenset({"plain"}))


def _from(values: list[int]) -> Callable[..., Any]:
    return lambda query, ctx: Candidates.of(ITEM_ID(values))


def _times(column: Column[Any]) -> Callable[..., Any]:
    return lambda query, rows, ctx: patch(column((rows[ITEM_ID] * TIMES[column]).astype(np.float32)))


def _bystander(kind: str, name: str, function: Callable[..., Any], writes: tuple[Any, ...] = (), *, later: bool) -> Any:
    def plain(_self: object, *args: Any) -> Any:
        return function(*args)

    async def awaited(_self: object, *args: Any) -> Any:
        await asyncio.sleep(0.001)
        return function(*args)

    members: dict[str, Any] = {METHODS[kind]: awaited if later else plain, "reads": ()}
    members |= {"writes": writes} if writes or kind == "source" else {}
    return name, type("Bystander", (), members)()


def pipeline(
    place: Place,
    x: Any,
    run: RunPolicy,
    probe: Probe,
    *,
    spare: Any = None,
    semantics: Semantics = "strict",
    later: bool = True,
    stage_ms: int | None = None,
    deadline_ms: int | None = None,
) -> App:
    """The application with `x` in its place.

    Args:
        place: The place.
        x: The component.
        run: Its settings.
        probe: Where bystanding side effects note that they ran.
        spare: What it falls back to.
        semantics: Whose rules hold.
        later: Whether every other bystander takes a moment.
        stage_ms: What the stage of `x` may take.
        deadline_ms: What the request may take.
    """

    def ran(name: str) -> Callable[..., Any]:
        return lambda query, outcome, ctx: probe.effects.append(name)

    def keep(*dropped: int) -> Callable[..., Any]:
        return lambda query, rows, ctx: ~np.isin(rows[ITEM_ID], dropped)

    def one(kind: str, name: str, function: Callable[..., Any], *writes: Any, later: bool = False) -> Any:
        return _bystander(kind, name, function, writes, later=later)

    stages: dict[str, list[Any]] = {
        "query_hydrators": [
            one("query_hydrator", "near", lambda query, ctx: query_patch(NEAR(1)), NEAR),
            one("query_hydrator", "far", lambda query, ctx: query_patch(FAR(2)), FAR, later=later),
        ],
        "sources": [one("source", "low", _from([1, 2, 3, 4])), one("source", "high", _from([5, 6, 7, 8]), later=later)],
        "hydrators": [
            one("hydrator", "twice", _times(TWICE), TWICE),
            one("hydrator", "thrice", _times(THRICE), THRICE, later=later),
        ],
        "filters": [one("filter", "not_2", keep(2)), one("filter", "not_3", keep(3))],
        "scorers": [
            one("scorer", "score", _times(SCORE), SCORE),
            one("scorer", "after", _times(AFTER), AFTER, later=later),
        ],
        "selector": [one("selector", "top", best_by_rules)],
        "post_selection_hydrators": [
            one("hydrator", "shown", _times(SHOWN), SHOWN),
            one("hydrator", "shade", _times(SHADE), SHADE, later=later),
        ],
        "post_selection_filters": [one("filter", "not_7", keep(7)), one("filter", "not_8", keep(8))],
        "side_effects": [
            one("side_effect", "tell", ran("tell"), later=later),
            one("side_effect", "wait", ran("wait"), later=later),
        ],
    }
    listed = stages.setdefault(place.stage, [])
    if place.kind == "selector":
        listed.clear()
    listed.insert(1, ("x", x))
    limit = None if stage_ms is None else dt.timedelta(milliseconds=stage_ms)
    given: dict[str, Any] = {**stages, "selector": stages["selector"][0]}
    return compose(
        "faults",
        **given,
        fallbacks=[] if spare is None else [("spare", spare)],
        inputs={"friends": FRIENDS},
        run={"x": run, "wait": RunPolicy(sync=later or None)},
        deadline=None if deadline_ms is None else dt.timedelta(milliseconds=deadline_ms),
        stages={} if limit is None else {place.stage: StageOptions(timeout=limit)},
        semantics=semantics,
        max_refills=0,
    )
