"""One call that tries everything a component promises."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.components import METHODS, Context
from candidate_pipeline.engine.checks import candidates_of, indices_of, mask_of, patch_of, query_patch_of
from candidate_pipeline.engine.contract import contract_faults, declared
from candidate_pipeline.engine.plan import Node
from candidate_pipeline.keys import Column, Key, QueryFeature
from candidate_pipeline.patches import Patch, QueryPatch
from candidate_pipeline.plugin import Kind
from candidate_pipeline.query import Query
from candidate_pipeline.testing.strategies import Strategy, candidates, queries

#: Relative and absolute tolerance between a component's answers on a table and on the same table reordered.
TOLERANCE = 1e-5


def kind_of(component: Any) -> Kind:
    """The kind of a component, told by its method.

    Raises:
        TypeError: It has no component's method, or more than one.
    """
    found: list[Kind] = [kind for kind, method in METHODS.items() if callable(getattr(component, method, None))]  # type: ignore[misc]  # METHODS' keys are kinds
    if set(found) == {"query_hydrator", "hydrator"}:
        count = len(inspect.signature(component.hydrate).parameters)
        found = ["query_hydrator" if count == 2 else "hydrator"]
    if len(found) != 1:
        raise TypeError(f"{type(component).__name__} is of no kind, or of several: {found}; pass kind=")
    return found[0]


def run_component(component: Any, query: Query, table: Candidates | None = None, *, kind: Kind | None = None) -> Any:
    """Call a component as the engine would: `prepare` first, awaited if it is async, its answer checked.

    Args:
        component: The component.
        query: The query.
        table: The candidates, for kinds that take them.
        kind: Its kind, where it cannot be told.

    Returns:
        A `QueryPatch`, `Candidates`, `Patch`, `bool[n]` or `intp[k]`, as the kind demands.

    Raises:
        ContractError: The answer is not what the kind demands.
    """
    which = kind_of(component) if kind is None else kind
    ctx = Context(type(component).__name__, query.seed)
    args = (query,) if which in {"query_hydrator", "source"} else (query, table)

    async def call() -> Any:
        prepared = None
        if callable(getattr(component, "prepare", None)):
            prepared = await _awaited(component.prepare(query, ctx))
        method = getattr(component, METHODS[which])
        return await _awaited(method(*args, attrs.evolve(ctx, prepared=prepared)))

    answer = asyncio.run(call())
    node = _node(component, which)
    rows = 0 if table is None else len(table)
    if which == "filter":
        return mask_of(node, answer, rows)
    if which == "selector":
        return indices_of(node, answer, rows)
    if which == "query_hydrator":
        return query_patch_of(node, answer)
    if which == "source":
        return candidates_of(node, answer)
    patch = patch_of(node, answer)
    for update in patch.updates.values():
        update.checked(rows)
    return patch


def check_component(
    component: Any,
    *,
    kind: Kind | None = None,
    values: Mapping[Key, Strategy] | None = None,
    max_examples: int = 50,
) -> None:
    """Try what a component of its kind promises, on generated queries and tables.

    Tables have 0, 1 and many rows and only the columns it declares to read; the query has only the features it
    declares. The answer must be well formed and write only what is declared, the inputs must be unchanged, the same
    query must give the same answer, and, unless the component says `listwise = True` or is a selector, the answer on a
    reordered table must be the reordered answer. A filter that has `reason` must give a line of text for every row that
    it drops, and the same one when asked again.

    Args:
        component: The component.
        kind: Its kind, where it cannot be told from its methods.
        values: Strategies of single cells or features, for keys whose values are not arbitrary.
        max_examples: How many cases to try.

    Raises:
        AssertionError: A promise is broken; the message says which.
        ContractError: An answer is not what the kind demands.
    """
    which = kind_of(component) if kind is None else kind
    faults = contract_faults(component, which)
    assert not faults, "; ".join(faults)  # noqa: S101 - a test kit asserts
    reads = declared(component, "reads")
    features = [key for key in reads if isinstance(key, QueryFeature)]
    columns = [key for key in reads if isinstance(key, Column)]
    takes_rows = which not in {"query_hydrator", "source"}
    tables: Strategy = candidates(*columns, values=values) if takes_rows else st.none()

    @settings(max_examples=max_examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(query=queries(*features, values=values), table=tables, data=st.data())
    def check(query: Query, table: Candidates | None, data: st.DataObject) -> None:
        _check_once(component, which, query, table, data)

    check()


def _check_once(component: Any, kind: Kind, query: Query, table: Candidates | None, data: st.DataObject) -> None:
    before = _snapshot(query, table)
    answer = run_component(component, query, table, kind=kind)
    _require(_same(before, _snapshot(query, table)), component, "changed its input")
    again = run_component(component, query, table, kind=kind)
    _require(_same(_plain(answer), _plain(again)), component, "gave two answers to the same query")
    if table is not None and kind == "filter" and callable(getattr(component, "reason", None)):
        _check_reasons(component, query, table, answer)
        _require(_same(before, _snapshot(query, table)), component, "changed its input in reason")
    if table is None or kind in {"selector", "side_effect"} or getattr(component, "listwise", False):
        return
    order = np.array(data.draw(st.permutations(range(len(table)))), np.intp)
    moved = run_component(component, query, table.take(order), kind=kind)
    wanted = {name: array[order] for name, array in _plain(answer).items()}
    message = "answers differently when rows are reordered; say listwise = True if a row's answer depends on others"
    _require(_same(wanted, _plain(moved), TOLERANCE), component, message)


def _check_reasons(component: Any, query: Query, table: Candidates, kept: Any) -> None:
    """Ask a filter why it dropped what it dropped."""
    for at in np.flatnonzero(~kept).tolist():
        said = component.reason(query, table.row(at))
        _require(isinstance(said, str), component, f"gave {said!r:.80} as a reason, wanted text")
        _require(bool(said.strip()), component, "dropped a row and gave an empty reason")
        _require("\n" not in said, component, f"gave a reason of several lines: {said!r:.80}")
        _require(said == component.reason(query, table.row(at)), component, "gave two reasons for the same row")


def _require(good: bool, component: Any, what: str) -> None:
    if not good:
        raise AssertionError(f"{type(component).__name__} {what}")


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _node(component: Any, kind: Kind) -> Node:
    """A node that holds what the answer checks read."""
    return Node(
        index=0,
        name=type(component).__name__,
        use="",
        origin="",
        kind=kind,
        stage="hydrators",
        component=component,
        method=getattr(component, METHODS[kind]),
        writes=frozenset(declared(component, "writes")),
    )


def _plain(answer: Any) -> dict[str, Any]:
    """An answer as arrays by name."""
    if isinstance(answer, Patch):
        arrays = {}
        for column, update in answer.updates.items():
            values, valid = update.checked(len(update.values))  # type: ignore[arg-type]  # an answer that was checked has rows
            mask = np.ones(len(values), np.bool_) if valid is None else valid
            blank = column.blank(len(values), update.given_labels)
            blank[mask] = values[mask]
            arrays[column.name], arrays[f"{column.name} valid"] = blank, mask
        return arrays
    if isinstance(answer, QueryPatch):
        return {feature.name: update.value for feature, update in answer.updates.items()}
    if isinstance(answer, Candidates):
        return _snapshot(None, answer)
    return {} if answer is None else {"answer": np.asarray(answer)}


def _snapshot(query: Query | None, table: Candidates | None) -> dict[str, Any]:
    taken: dict[str, Any] = {}
    if query is not None:
        for feature, value in query.features.items():
            taken[f"query {feature.name}"] = value.copy() if isinstance(value, np.ndarray) else value
    if table is not None:
        for column in table.columns:
            taken[column.name] = table[column].copy()
            taken[f"{column.name} valid"] = table.valid(column)
    return taken


def _same(left: Mapping[str, Any], right: Mapping[str, Any], tolerance: float = 0.0) -> bool:
    return left.keys() == right.keys() and all(_equal(left[name], right[name], tolerance) for name in left)


def _equal(left: Any, right: Any, tolerance: float) -> bool:
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        if left.shape != right.shape:
            return False
        if left.dtype.kind == "f":
            return bool(np.allclose(left, right, rtol=tolerance, atol=tolerance, equal_nan=True))
        return bool(np.array_equal(left, right))
    if attrs.has(type(left)) and type(left) is type(right):
        names = [field.name for field in attrs.fields(type(left))]
        return all(_equal(getattr(left, name), getattr(right, name), tolerance) for name in names)
    return bool(np.all(left == right))
