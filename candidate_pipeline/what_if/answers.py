"""Recorded answers in the place of components: what a replay calls instead of stores, models and clients."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import Context
from candidate_pipeline.engine.cached import shared_query
from candidate_pipeline.engine.checks import patch_of
from candidate_pipeline.engine.failures import TimedOutError
from candidate_pipeline.engine.plan import Node
from candidate_pipeline.errors import CandidatePipelineError, CaptureError, RequestError
from candidate_pipeline.keys import ITEM_ID, Column
from candidate_pipeline.patches import Patch, QueryPatch, patch, query_patch
from candidate_pipeline.query import READER, Query
from candidate_pipeline.what_if.capture import RecordedCall, RecordedComponent, decode_feature
from candidate_pipeline.what_if.codec import member
from candidate_pipeline.what_if.tables import Written, decode_table, decode_updates, query_digest, row_digests

if TYPE_CHECKING:
    from candidate_pipeline.app import App

#: What becomes of an impure component that the capture has no fitting answer of: it runs (`changed`); that is an error
#: (`never`); or what is recorded under its name is used, whether or not it fits (`recorded`).
Live: TypeAlias = Literal["never", "changed", "recorded"]
LIVE: Final[tuple[Live, ...]] = ("never", "changed", "recorded")
#: Why recorded answers do not fit.
_CHANGED: Final = "what it reads of the query is not what it was"
_UNKNOWN: Final = "the capture has no answer of it as it is set now"


class RecordedFailureError(CandidatePipelineError):
    """What a component failed for, of which the text alone is known."""


@attrs.define(eq=False)
class Session:
    """One replay of a request.

    Args:
        app: The application whose components run.
        live: What becomes of components without a recorded answer.
        ran: The impure components that ran.
        reused: The scorers whose recorded columns were used.
        notes: What else is to be said.
        refused: Why the replay cannot be, if it cannot.
    """

    app: App
    live: Live
    ran: dict[str, None] = attrs.field(factory=dict)
    reused: dict[str, None] = attrs.field(factory=dict)
    notes: dict[str, None] = attrs.field(factory=dict)
    refused: CaptureError | None = None

    def refuse(self, message: str) -> RequestError:
        """The error that ends the request here; the replay raises a `CaptureError` in its place."""
        self.refused = self.refused or CaptureError(message)
        return RequestError(message)

    def unknown(self, node: Node, query: Query, args: tuple[Any, ...], ctx: Context, why: str) -> Awaitable[Any]:
        """The answer of a component that has none recorded: its own.

        Raises:
            RequestError: Nothing runs live in this replay.
        """
        if self.live == "never":
            raise self.refuse(f"{node.name} ({node.use}) would have to run: {why}; let it with live = 'changed'")
        self.ran[node.name] = None
        return self.ask(node, query, args, ctx)

    async def ask(self, node: Node, query: Query, args: tuple[Any, ...], ctx: Context) -> Any:
        """What the application's own component answers, whatever it needs being opened first."""
        await self.app.open_for([node.component])
        if node.cache is not None:  # it sees what its cache shows it
            query, ctx = shared_query(node.cache, query), attrs.evolve(ctx, seed=0, shared=True)
        if node.prepare is not None:
            ctx = attrs.evolve(ctx, prepared=await _called(node, node.prepare, (query, ctx)))
        return await _called(node, node.method, (query, *args, ctx))


async def _called(node: Node, method: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    reading = READER.set((args[0], node.features))
    try:
        if node.mode == "thread" and not inspect.iscoroutinefunction(method):
            return await asyncio.to_thread(method, *args)
        value = method(*args)
        return await value if hasattr(type(value), "__await__") else value
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # The component's own doing, which would look as if this task had been cancelled.
        said = f": {error}" if str(error) and node.mode == "plain" else ""
        raise RecordedFailureError(f"{type(error).__name__}{said}") from error
    finally:
        READER.reset(reading)


@attrs.frozen(eq=False)
class Answered:
    """One recorded call, its arrays looked up and checked.

    Args:
        call: What was recorded.
        value: What a query hydrator or source returned.
        ids: The rows' ids, `int64[n]`, if it was given rows.
        digests: Digests of what it read of each row, `uint64[n]`.
        written: What a hydrator or scorer wrote, by column.
        failed: The rows that failed, `bool[n]`, if some did.
    """

    call: RecordedCall
    value: QueryPatch | Candidates | None = None
    ids: NDArray[np.int64] = attrs.field(factory=lambda: np.empty(0, np.int64))
    digests: NDArray[np.uint64] = attrs.field(factory=lambda: np.empty(0, np.uint64))
    written: Mapping[Column[Any], Written] = attrs.field(factory=dict)
    failed: NDArray[np.bool_] | None = None

    @property
    def ok(self) -> bool:
        """Whether it did not fail."""
        return self.call.error is None

    def result(self) -> Any:
        """What was returned.

        Raises:
            RecordedFailureError: The call failed.
            TimedOutError: Its time ran out.
        """
        if self.call.error is not None:
            raise TimedOutError(self.call.error) if self.call.late else RecordedFailureError(self.call.error)
        if self.value is not None:
            return self.value
        return patch(*(written.update(column) for column, written in self.written.items()), failed=self.failed)

    @property
    def signature(self) -> frozenset[tuple[Column[Any], tuple[str, ...]]]:
        """The columns it wrote, and under which labels."""
        return frozenset((column, written.labels) for column, written in self.written.items())


def answered(component: RecordedComponent, node: Node, arrays: Mapping[str, NDArray[Any]]) -> list[Answered]:
    """The recorded calls of a component, for a node that stands for it.

    Raises:
        CaptureError: They are not what calls of such a component can be.
    """
    try:
        return [_answered(call, node, arrays) for call in component.calls]
    except CaptureError as error:
        raise CaptureError(f"{component.place}: {error}") from error


def _answered(call: RecordedCall, node: Node, arrays: Mapping[str, NDArray[Any]]) -> Answered:
    ids = member(arrays, call.ids, np.int64, (None,)) if call.ids is not None else np.empty(0, np.int64)
    rows = len(ids)
    digests = member(arrays, call.digests, np.uint64, (rows,)) if call.digests is not None else np.empty(0, np.uint64)
    if call.ids is not None and len(digests) != rows:
        raise CaptureError("a call with rows needs a digest of each")
    if call.error is not None or node.inner is not None:
        return Answered(call, ids=ids, digests=digests)
    if node.kind == "query_hydrator":
        known = {feature.name: feature for feature in node.written_features}
        for name in call.features or {}:
            if name not in known:
                raise CaptureError(f"wrote the query feature {name!r:.80}, which it does not declare")
        given = (known[name](decode_feature(known[name], each, arrays)) for name, each in (call.features or {}).items())
        return Answered(call, query_patch(*given))
    columns = {column.name: column for column in node.written_columns}
    if call.columns is None:
        raise CaptureError("a call that did not fail needs an answer")
    if node.kind == "source":
        return Answered(call, decode_table(call.columns, columns, arrays))
    written = decode_updates(call.columns, columns, rows, arrays)
    failed = None if call.failed is None else member(arrays, call.failed, np.bool_, (rows,))
    return Answered(call, None, ids, digests, written, failed)


def learned(asked: str, **answer: Any) -> Answered:
    """A call that was made in a replay, to be used in the next one."""
    call = RecordedCall(
        refill=0,
        error=None,
        late=False,
        outside=False,
        asked=asked,
        ids=None,
        digests=None,
        features=None,
        columns=None,
        failed=None,
        uncaptured={},
    )
    return Answered(call, **answer)


@attrs.define(eq=False)
class Stored:
    """Stands in for a query hydrator or a source.

    Args:
        node: The component.
        calls: Its recorded calls.
        session: The replay.
        lessons: What it answered in earlier replays of the request; more is added.
    """

    node: Node
    calls: Sequence[Answered]
    session: Session
    lessons: list[Answered]

    def __call__(self, query: Query, ctx: Context) -> Any:
        """The recorded answer to this query, or the component's own."""
        if self.session.live == "recorded" and self.calls:
            return self.calls[0].result()
        asked = query_digest(query, self.node.features)
        for call in (*self.calls, *self.lessons):
            if call.call.asked == asked:
                return call.result()
        why = _CHANGED if self.calls else _UNKNOWN
        return self._learned(asked, self.session.unknown(self.node, query, (), ctx, why))

    async def _learned(self, asked: str, answer: Awaitable[Any]) -> Any:
        value = await answer
        if isinstance(value, QueryPatch | Candidates):
            self.lessons.append(learned(asked, value=value))
        return value


@attrs.define(eq=False)
class StoredCells:
    """Stands in for a hydrator or a scorer: recorded cells, row by row.

    Args:
        node: The component.
        calls: Its recorded calls.
        session: The replay.
        by_id: Whether a recorded cell counts whatever the component reads of the row.
        lessons: What it answered in earlier replays of the request; more is added.
    """

    node: Node
    calls: Sequence[Answered]
    session: Session
    by_id: bool
    lessons: list[Answered]

    def __call__(self, query: Query, table: Candidates, ctx: Context) -> Any:
        """The recorded cells of these rows; those of other rows are the component's own."""
        if self.by_id:
            calls, keys = [*self.calls, *self.lessons], table[ITEM_ID].view(np.uint64)
        else:
            asked = query_digest(query, self.node.features)
            calls = [call for call in (*self.calls, *self.lessons) if call.call.asked == asked]
            keys = row_digests(table, self.node.columns)
        for call in calls:
            if np.array_equal(self._keys(call), keys):
                return call.result()
        return self._by_row(calls, keys, query, table, ctx)

    def _keys(self, call: Answered) -> NDArray[np.uint64]:
        return call.ids.view(np.uint64) if self.by_id else call.digests

    def _by_row(
        self, calls: list[Answered], keys: NDArray[np.uint64], query: Query, table: Candidates, ctx: Context
    ) -> Any:
        live, session = self.session.live, self.session
        good = [call for call in calls if call.ok]
        good = [call for call in good if call.signature == good[0].signature]
        bad = [call for call in calls if not call.ok]
        if not len(keys) and not good:  # what it makes of no rows at all is not known
            if live == "changed":
                session.ran[self.node.name] = None
                return self._ask(query, table, ctx)
            return bad[0].result() if bad else patch()
        pool = np.concatenate([np.empty(0, np.uint64), *(self._keys(call) for call in good)])
        known, first = np.unique(pool, return_index=True)
        at = np.searchsorted(known, keys)
        found = np.zeros(len(keys), np.bool_) if not len(known) else known[np.minimum(at, len(known) - 1)] == keys
        index = first[at[found]]
        lost = ~found & np.isin(keys, np.concatenate([np.empty(0, np.uint64), *(self._keys(call) for call in bad)]))
        if bad and len(keys) and lost.all():
            return bad[0].result()
        unknown, cells, failed = ~found & ~lost, _pooled(good, index), _failed(good, index, found) | lost
        if not unknown.any():
            return _laid(cells, {}, found, unknown, failed)
        if live == "changed":
            session.ran[self.node.name] = None
            if unknown.all():
                return self._ask(query, table, ctx)
            return self._filled(query, table, ctx, cells, found, unknown, failed)
        if live == "never" and not calls:
            why = _CHANGED if self.calls else _UNKNOWN
            return session.unknown(self.node, query, (table,), ctx, why)
        count = int(np.count_nonzero(unknown))
        note = f"{self.node.name}: nothing is recorded of {count} {'row' if count == 1 else 'rows'}, which failed"
        session.notes[note] = None
        return _laid(cells, {}, found, np.zeros_like(unknown), failed | unknown)

    async def _filled(
        self,
        query: Query,
        table: Candidates,
        ctx: Context,
        cells: dict[Column[Any], Written],
        found: NDArray[np.bool_],
        unknown: NDArray[np.bool_],
        failed: NDArray[np.bool_],
    ) -> Patch:
        """The recorded cells, and the component's own in the rows that are unknown."""
        answer = await self._ask(query, table.take(unknown), ctx)
        fresh, broken = _written(answer, int(np.count_nonzero(unknown)))
        if any(cells[column].labels != fresh[column].labels for column in cells.keys() & fresh.keys()):
            return await self._ask(query, table, ctx)
        failed = failed.copy()
        failed[unknown] = False if broken is None else broken
        return _laid(cells, fresh, found, unknown, failed)

    async def _ask(self, query: Query, table: Candidates, ctx: Context) -> Patch:
        """The component's own answer, kept for the next replay."""
        answer = patch_of(self.node, await self.session.ask(self.node, query, (table,), ctx))
        written, failed = _written(answer, len(table))
        asked, digests = query_digest(query, self.node.features), row_digests(table, self.node.columns)
        self.lessons.append(learned(asked, ids=table[ITEM_ID], digests=digests, written=written, failed=failed))
        return answer


def _written(answer: Patch, rows: int) -> tuple[dict[Column[Any], Written], NDArray[np.bool_] | None]:
    """What a patch writes by column, and the rows that failed.

    Raises:
        ContractError: It has the wrong length, shape or dtype.
    """
    failed = answer.failed_rows(rows)
    written = {}
    for column, update in answer.updates.items():
        values, valid = update.checked(rows, failed)
        written[column] = Written(values, valid, column.labels if update.labels is None else update.labels)
    return written, failed


def _pooled(calls: Sequence[Answered], index: NDArray[np.intp]) -> dict[Column[Any], Written]:
    """What several calls wrote, in the rows of an index into all their rows."""
    if not calls:
        return {}
    pooled = {}
    for column, sample in calls[0].written.items():
        parts = [call.written[column] for call in calls]
        values = np.concatenate([part.values for part in parts])[index]
        valid = np.concatenate([part.all_valid() for part in parts])[index]
        pooled[column] = Written(values, valid, sample.labels)
    return pooled


def _failed(calls: Sequence[Answered], index: NDArray[np.intp], found: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which rows failed in the calls that they were found in, `bool[n]`."""
    failed = np.zeros(len(found), np.bool_)
    if calls:
        parts = [np.zeros(len(call.ids), np.bool_) if call.failed is None else call.failed for call in calls]
        failed[found] = np.concatenate(parts)[index]
    return failed


def _laid(
    cells: Mapping[Column[Any], Written],
    fresh: Mapping[Column[Any], Written],
    found: NDArray[np.bool_],
    asked: NDArray[np.bool_],
    failed: NDArray[np.bool_],
) -> Patch:
    """A patch of recorded cells in the rows of `found` and of fresh ones in those of `asked`."""
    updates = []
    for column in {**cells, **fresh}:
        labels = (cells.get(column) or fresh[column]).labels
        values = column.blank(len(found), labels)
        valid = np.zeros(len(found), np.bool_)
        for rows, given in ((found, cells.get(column)), (asked, fresh.get(column))):
            if given is not None and rows.any():
                values[rows] = given.values
                valid[rows] = given.all_valid()
        updates.append(Written(values, valid, labels).update(column))
    return patch(*updates, failed=failed if failed.any() else None)


@attrs.define(eq=False)
class Faltering:
    """A pure component that failed, when it was recorded, for want of time or threads: asked the same, it fails again.

    Args:
        node: The component.
        failures: The recorded calls that failed so.
        session: The replay.
    """

    node: Node
    failures: Sequence[Answered]
    session: Session

    def __call__(self, query: Query, *args: Any) -> Any:
        """Fail as recorded, or answer."""
        *rows, ctx = args
        asked = query_digest(query, self.node.features)
        for failure in self.failures:
            same = failure.call.asked == asked
            if same and rows:
                same = np.array_equal(failure.digests, row_digests(rows[0], self.node.columns))
            if same:
                return failure.result()
        return self.session.ask(self.node, query, tuple(rows), ctx)


#: Answers of a scorer that it need not give again: what it was asked, and what it returned.
Memory: TypeAlias = "list[tuple[str, NDArray[np.uint64], Patch]]"


@attrs.define(eq=False)
class Remembering:
    """A scorer that is not asked twice about the same rows.

    Args:
        node: The scorer.
        memory: What it answered, oldest first; more is added.
        session: The replay.
    """

    node: Node
    memory: Memory
    session: Session

    def __call__(self, query: Query, table: Candidates, ctx: Context) -> Any:
        """What it answered before, or answers now."""
        asked, digests = query_digest(query, self.node.features), row_digests(table, self.node.columns)
        for earlier, rows, answer in self.memory:
            if earlier == asked and np.array_equal(rows, digests):
                return answer
        return self._asked(query, table, ctx, asked, digests)

    async def _asked(
        self, query: Query, table: Candidates, ctx: Context, asked: str, digests: NDArray[np.uint64]
    ) -> Any:
        answer = await self.session.ask(self.node, query, (table,), ctx)
        if isinstance(answer, Patch):
            self.memory.append((asked, digests, answer))
            del self.memory[:-4]
        return answer


def remembered(calls: Iterable[Answered]) -> Memory:
    """The memory of a scorer's recorded calls."""
    return [(call.call.asked, call.digests, call.result()) for call in calls if call.ok]
