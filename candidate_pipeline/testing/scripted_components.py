"""Components that do what plain data says: the parts of a script (see `candidate_pipeline.testing.scripted`)."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import METHODS, Context
from candidate_pipeline.errors import MisconfigurationError, RequestError
from candidate_pipeline.keys import ITEM_ID, SCORE, Column, Key, QueryFeature
from candidate_pipeline.ordering import rank_order
from candidate_pipeline.patches import ColumnUpdate, Patch, QueryPatch, patch, query_patch
from candidate_pipeline.plugin import Kind
from candidate_pipeline.query import Query

#: Plain data, as JSON has it.
Plain: TypeAlias = Any
Settings: TypeAlias = Mapping[str, Plain]

#: The query features of scripts; q7, q8 and q9 have the default 0.
FEATURES: Final[Mapping[str, QueryFeature[int]]] = {
    f"q{n}": QueryFeature(f"script.q{n}", int) if n < 7 else QueryFeature(f"script.q{n}", int, default=0)
    for n in range(1, 10)
}
_FLOATS: Final = {f"c{n}": Column(f"script.c{n}", np.float32) for n in range(1, 7)}
_INTEGERS: Final = {f"c{n}": Column(f"script.c{n}", np.int64) for n in range(7, 10)}
#: The columns of scripts: c1 to c6 hold float32, c7 to c9 int64.
COLUMNS: Final[Mapping[str, Column[Any]]] = {"id": ITEM_ID, "score": SCORE, **_FLOATS, **_INTEGERS}

_COMPARE: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
#: How long a hanging component takes: longer than any limit, yet an end if there is none.
HOUR: Final = 3600.0


def key_of(name: str) -> Key:
    """The query feature or column of a short name.

    Raises:
        ValueError: There is none.
    """
    if name in FEATURES:
        return FEATURES[name]
    if name in COLUMNS:
        return COLUMNS[name]
    raise ValueError(f"no key {name!r}: scripts have q1..q9, c1..c9, id and score")


def number_of(value: Plain) -> float:
    """A number as scripts write it: `2.5`, `"NaN"`, `"inf"`, `"-inf"`."""
    return float(value) if isinstance(value, str) else value


@attrs.define(eq=False, slots=False)
class Scripted:
    """One component that does what its settings say.

    Args:
        kind: Its kind.
        settings: What it does.
        reads: The keys it reads.
        writes: The keys it writes.
        calls: What it was given, one record a call, oldest first.
    """

    kind: Kind
    settings: Settings
    reads: tuple[Key, ...]
    writes: tuple[Key, ...]
    calls: list[dict[str, Plain]] = attrs.field(factory=list, repr=False)

    def __attrs_post_init__(self) -> None:
        work = _WORK[self.kind]

        def plain(*args: Any) -> Any:
            fault = self._begin(args)
            return work(self, fault, *args)

        async def waiting(*args: Any) -> Any:
            fault = self._begin(args)
            await self._wait(fault)
            answer = work(self, fault, *args)
            self.calls[-1]["finished_ms"] = _now_ms()
            return answer

        setattr(self, METHODS[self.kind], plain if self.plain else waiting)

    @property
    def plain(self) -> bool:
        """Whether it is a plain def; filters and selectors always are."""
        return self.kind in {"filter", "selector"} or bool(self.settings.get("plain"))

    @property
    def listwise(self) -> bool:
        """Whether its answer on a row depends on other rows."""
        keep = self.settings.get("keep")
        return bool(self.settings.get("listwise")) or (isinstance(keep, Mapping) and "first_per" in keep)

    @property
    def blocking(self) -> bool:
        """Whether it runs in a thread."""
        return bool(self.settings.get("blocking"))

    def _begin(self, args: Sequence[Any]) -> str:
        """Record a call and read the query features; which fault it has."""
        call: dict[str, Plain] = {"started_ms": None if self.blocking else _now_ms()}
        if self.kind == "side_effect":
            _, outcome, ctx = args
            call["selected"] = outcome.item_ids.tolist()
            call["unselected"] = [item for table in outcome.unselected for item in table[ITEM_ID].tolist()]
            call["key"] = ctx.idempotency_key
        elif isinstance(args[1], Candidates):
            call["ids"] = args[1][ITEM_ID].tolist()
        self.calls.append(call)
        for key in self.reads:
            if isinstance(key, QueryFeature):
                args[0][key]
        only = self.settings.get("fault_on_call")
        return self.settings.get("fault") or "" if only is None or only == len(self.calls) else ""

    async def _wait(self, fault: str) -> None:
        if fault == "hang":
            await asyncio.sleep(HOUR)
            raise TimeoutError("hung for an hour")
        if fault == "swallow":
            try:
                await asyncio.sleep(HOUR)
            except asyncio.CancelledError:
                await asyncio.sleep(HOUR)
        delay = self.settings.get("delay_ms", 0)
        if delay:
            await asyncio.sleep(delay / 1000)


def _now_ms() -> float:
    """The event loop's time, in milliseconds."""
    return asyncio.get_running_loop().time() * 1000


def reads_of(kind: Kind, settings: Settings, scored: bool) -> tuple[Key, ...]:
    """The keys that a component reads; a selector reads the score where somebody writes one (`scored`)."""
    names: list[str] = [*settings.get("reads", ())]
    names += [rule["from"] for rule in settings.get("set", {}).values() if isinstance(rule, Mapping) and "from" in rule]
    keep = settings.get("keep")
    if isinstance(keep, Mapping):
        names += [keep[word] for word in ("column", "first_per") if word in keep]
        if isinstance(keep.get("value"), Mapping):
            names.append(keep["value"]["from"])
    if kind == "selector" and scored:
        names.append("score")
    return tuple(key_of(name) for name in dict.fromkeys(names))


def writes_of(settings: Settings) -> tuple[Key, ...]:
    """The keys that a component writes: those it sets, those of its rows, and those it only declares."""
    names = [*settings.get("set", ()), *(name for row in settings.get("rows", ()) for name in row if name != "id")]
    return tuple(key_of(name) for name in dict.fromkeys([*names, *settings.get("writes", ())]))


def _raise_if(fault: str) -> None:
    if fault == "raise":
        raise OSError("scripted fault")
    if fault == "request_error":
        raise RequestError("scripted refusal")
    if fault == "misconfigured":
        raise MisconfigurationError("scripted misconfiguration")
    if fault == "cancelled":
        raise asyncio.CancelledError("scripted cancellation")


def _hydrate_query(self: Scripted, fault: str, query: Query, *_: Any) -> QueryPatch | None:
    _raise_if(fault)
    if fault == "wrong_type":
        return None
    updates = []
    for name, rule in self.settings.get("set", {}).items():
        if rule is None:
            continue
        value: Any = rule
        if isinstance(rule, Mapping):
            value = query[FEATURES[rule["from"]]] * rule.get("mul", 1) + rule.get("add", 0)
        if fault == "wrong_dtype":
            value = "text"
        updates.append(FEATURES[name](value))
    if fault == "undeclared":
        updates.append(_undeclared(self.writes, FEATURES)(0))
    return query_patch(*updates)


def _fetch(self: Scripted, fault: str, *_: Any) -> Candidates | None:
    _raise_if(fault)
    if fault == "wrong_type":
        return None
    rows = self.settings.get("rows", ())
    ids = [row["id"] for row in rows]
    given = dict.fromkeys(name for row in rows for name in row if name != "id")
    updates = [_update(name, [row.get(name) for row in rows]) for name in given]
    if fault == "undeclared":
        updates.append(_undeclared(self.writes, COLUMNS)(np.zeros(len(ids), np.int64)))
    if fault == "wrong_length":
        updates.append(_FLOATS["c1"](np.zeros(len(ids) + 1, np.float32)))
    return Candidates.of(ITEM_ID(["text"] if fault == "wrong_dtype" else ids), *updates)


def _patch(self: Scripted, fault: str, query: Query, candidates: Candidates, *_: Any) -> Patch | None:
    _raise_if(fault)
    if fault == "wrong_type":
        return None
    if fault == "mutate":
        array = candidates[ITEM_ID]
        array[...] = 0  # read-only, so this raises
    updates = [
        _update(name, _cells(rule, query, candidates), fault) for name, rule in self.settings.get("set", {}).items()
    ]
    if fault == "undeclared":
        updates.append(_undeclared(self.writes, COLUMNS)(np.zeros(len(candidates), np.int64)))
    failed_rows = self.settings.get("failed_rows")
    if not failed_rows:
        return patch(*updates)
    return patch(*updates, failed=np.isin(candidates[ITEM_ID], failed_rows))


def _cells(rule: Plain, query: Query, candidates: Candidates) -> list[Plain]:
    """The cells that a rule gives to a column, `None` for null."""
    ids = candidates[ITEM_ID].tolist()
    if not isinstance(rule, Mapping):
        return [rule] * len(ids)
    if "cells" in rule:
        return [rule["cells"].get(str(item)) for item in ids]
    origin, mul, add = rule["from"], rule.get("mul", 1), rule.get("add", 0)
    if origin in FEATURES:
        return [query[FEATURES[origin]] * mul + add] * len(ids)
    column = COLUMNS[origin]
    pairs = zip(candidates[column].tolist(), candidates.valid(column).tolist(), strict=True)
    return [value * mul + add if valid else None for value, valid in pairs]


def _update(name: str, cells: Sequence[Plain], fault: str = "") -> ColumnUpdate:
    """A column's update from plain cells, `None` for null."""
    column = COLUMNS[name]
    given = [*cells, 0] if fault == "wrong_length" else cells
    valid = np.array([cell is not None for cell in given], np.bool_)
    values: NDArray[Any] = np.array([0 if cell is None else number_of(cell) for cell in given], column.dtype)
    return column(values.astype(str) if fault == "wrong_dtype" else values, valid=valid)


def _undeclared(writes: Collection[Key], names: Mapping[str, Any]) -> Any:
    """A key that a component does not declare to write."""
    return next(key for name, key in reversed(list(names.items())) if key not in writes and name != "id")


def _keep(self: Scripted, fault: str, query: Query, candidates: Candidates, *_: Any) -> Any:
    _raise_if(fault)
    if fault == "wrong_type":
        return None
    if fault == "mutate":
        array = candidates[ITEM_ID]
        array[...] = 0  # read-only, so this raises
    keep = _mask(self.settings.get("keep", True), query, candidates)
    if fault == "wrong_length":
        return np.append(keep, True)
    return keep.astype(np.int64) if fault == "wrong_dtype" else keep


def _mask(keep: Plain, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
    if isinstance(keep, bool):
        return np.full(len(candidates), keep)
    column = COLUMNS[keep["first_per"] if "first_per" in keep else keep["column"]]
    values, valid = candidates[column], candidates.valid(column)
    if "first_per" in keep:
        seen: set[Plain] = set()
        mask = np.ones(len(candidates), np.bool_)
        for row in np.flatnonzero(valid).tolist():
            mask[row] = values[row].item() not in seen
            seen.add(values[row].item())
        return mask
    wanted = keep["value"]
    limit = query[FEATURES[wanted["from"]]] if isinstance(wanted, Mapping) else number_of(wanted)
    with np.errstate(invalid="ignore"):
        passing = np.asarray(_COMPARE[keep["op"]](values, limit), np.bool_)
    passing[~valid] = keep.get("null", "keep") == "keep"
    return passing


def _select(self: Scripted, fault: str, _: Query, candidates: Candidates, ctx: Context) -> Any:
    _raise_if(fault)
    if fault == "wrong_type":
        return None
    order = rank_order(candidates, semantics=ctx.semantics)[: self.settings.get("size")]
    if fault == "wrong_length":
        return np.append(order, len(candidates))
    return order.astype(np.float64) if fault == "wrong_dtype" else order


def _act(_: Scripted, fault: str, *__: Any) -> None:
    _raise_if(fault)


_WORK: Final[Mapping[Kind, Callable[..., Any]]] = {
    "query_hydrator": _hydrate_query,
    "source": _fetch,
    "hydrator": _patch,
    "filter": _keep,
    "scorer": _patch,
    "selector": _select,
    "side_effect": _act,
}
