"""Whether an object is a component of its kind, seen before it ever runs."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any, Final

from candidate_pipeline.components import METHODS
from candidate_pipeline.keys import ITEM_ID, Column, Key, QueryFeature
from candidate_pipeline.plugin import Kind

_ARGUMENTS: Final = {
    "query_hydrator": "query, ctx",
    "source": "query, ctx",
    "hydrator": "query, candidates, ctx",
    "filter": "query, candidates, ctx",
    "scorer": "query, candidates, ctx",
    "selector": "query, candidates, ctx",
    "side_effect": "query, outcome, ctx",
}

#: Kinds that write nothing.
READ_ONLY: Final = frozenset({"filter", "selector", "side_effect"})
#: Kinds that run before there are candidates.
NO_ROWS: Final = frozenset({"query_hydrator", "source"})
#: Kinds whose method must be a plain function.
SYNC: Final = frozenset({"filter", "selector"})


def contract_faults(component: Any, kind: Kind) -> list[str]:
    """What keeps an object from being a component of a kind, one sentence each; nothing if it is one."""
    name = METHODS[kind]
    method = getattr(component, name, None)
    owner = type(component).__name__
    faults = []
    if not callable(method):
        return [f"a {kind.replace('_', ' ')} has a method {name}({_ARGUMENTS[kind]}); {owner} has none"]
    if not _accepts(method, _ARGUMENTS[kind].count(",") + 1):
        faults.append(f"{owner}.{name} must take ({_ARGUMENTS[kind]}), found {name}{inspect.signature(method)}")
    if kind in SYNC and inspect.iscoroutinefunction(method):
        faults.append(f"{owner}.{name} must be a plain def: a {kind} is synchronous")
    elif getattr(component, "blocking", False) and inspect.iscoroutinefunction(method):
        faults.append(f"{owner}.{name} is async def, which blocking = True cannot run in a thread; drop one of them")
    prepare = getattr(component, "prepare", None)
    if prepare is not None and not _accepts(prepare, 2):
        faults.append(f"{owner}.prepare must take (query, ctx)")
    if kind == "filter":
        faults += _reason_faults(component)
    for attribute in ("reads",) if kind in READ_ONLY else ("reads", "writes"):
        faults += _key_faults(component, attribute)
    return faults or _use_faults(component, kind)


def _reason_faults(component: Any) -> list[str]:
    reason, owner = getattr(component, "reason", None), type(component).__name__
    if reason is None:
        return []
    if not callable(reason) or not _accepts(reason, 2):
        return [f"{owner}.reason must be a method that takes (query, row); call an option something else"]
    if inspect.iscoroutinefunction(reason):
        return [f"{owner}.reason must be a plain def"]
    return []


def declared(component: Any, attribute: str) -> tuple[Key, ...]:
    """The keys in `reads` or `writes`; none if the attribute is missing."""
    keys: Collection[Key] = getattr(component, attribute, ())
    return tuple(keys)


def _accepts(method: Any, count: int) -> bool:
    try:
        inspect.signature(method).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # a built-in without a signature
        return True
    return True


def _key_faults(component: Any, attribute: str) -> list[str]:
    owner = type(component).__name__
    if not hasattr(component, attribute):
        return [f"{owner} must declare {attribute}: the keys it {attribute}, () for none"]
    keys = getattr(component, attribute)
    if not isinstance(keys, Collection) or isinstance(keys, str):
        return [f"{owner}.{attribute} must be a collection of keys, found {keys!r:.80}"]
    wrong = [key for key in keys if not isinstance(key, QueryFeature | Column)]
    return [f"{owner}.{attribute} holds {wrong[0]!r:.80}, wanted keys"] if wrong else []


def _use_faults(component: Any, kind: Kind) -> list[str]:
    """Keys that a component of the kind cannot read or write."""
    owner, words = type(component).__name__, kind.replace("_", " ")
    faults = []
    if kind in NO_ROWS:
        columns = [key for key in declared(component, "reads") if isinstance(key, Column)]
        faults += [f"{owner}.reads holds the column {key.name}, but a {words} is given no rows" for key in columns]
    if kind in READ_ONLY:
        return faults
    wanted, what = (QueryFeature, "query features") if kind == "query_hydrator" else (Column, "columns")
    for key in declared(component, "writes"):
        if not isinstance(key, wanted):
            faults.append(f"{owner}.writes holds {key.name}, but a {words} writes {what}")
        elif key is ITEM_ID and kind != "source":
            faults.append(f"{owner}.writes holds {key.name}, which cannot be rewritten")
    return faults
