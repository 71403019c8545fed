"""Phases: which components of a stage run together, from what they read and write; and every wiring mistake there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs

from candidate_pipeline.engine.plan import Node, Phase
from candidate_pipeline.keys import ITEM_ID, Column, Key, QueryFeature
from candidate_pipeline.spec.model import Semantics, Stage
from candidate_pipeline.spec.positions import TomlPath

#: Called as `report(code, message, path, hint)`.
Report = Callable[[str, str, TomlPath, str], None]

_CONCURRENT: Final = frozenset(
    {
        "query_hydrators",
        "dependent_query_hydrators",
        "sources",
        "hydrators",
        "post_selection_hydrators",
        "side_effects",
    }
)


@attrs.define(eq=False)
class Phases:
    """Orders the components of a pipeline.

    Args:
        report: Where mistakes go.
        places: Where each component is listed, by number.
        partial: Whether components are missing because of mistakes reported elsewhere.
        semantics: Whose rules hold: the published ones order nothing by reads and let components of one stage write
            the same.
    """

    report: Report
    places: Mapping[int, TomlPath]
    partial: bool
    semantics: Semantics

    def of(
        self, stages: Mapping[Stage, list[Node]], given: Iterable[Key], finished: Iterable[Key] = ()
    ) -> tuple[dict[Stage, tuple[Phase, ...]], set[Key]] | None:
        """The phases of every stage, and every key there is at the end; `None` if a mistake was reported.

        Args:
            stages: The components, by stage.
            given: The keys there are from the start.
            finished: The keys there are when the response is complete.
        """
        producers: dict[Key, Stage] = {}
        for stage, nodes in stages.items():
            for node in nodes:
                for key in all_writes(node):
                    producers.setdefault(key, stage)
        available: set[Key] = {*given, ITEM_ID}
        if self.semantics == "upstream":  # every field of a candidate is there from the start
            available.update(key for key in producers if isinstance(key, Column))
        phases: dict[Stage, tuple[Phase, ...]] = {}
        sound = True
        for stage, nodes in stages.items():
            if stage == "side_effects":
                available.update(finished)
            ordered = self._stage(stage, nodes, available, producers)
            sound = sound and ordered is not None
            phases[stage] = ordered or ()
            available.update(key for node in nodes for key in node.writes)
        return (phases, available) if sound else None

    def _stage(
        self, stage: Stage, nodes: list[Node], available: set[Key], producers: Mapping[Key, Stage]
    ) -> tuple[Phase, ...] | None:
        sound = True
        known = set(available)
        depends: dict[int, set[int]] = {}
        concurrent = stage in _CONCURRENT
        strict = self.semantics == "strict"
        for node in nodes:
            depends[node.index] = set()
            for key in dict.fromkeys(all_reads(node)):
                others = {other.index for other in nodes if other is not node and key in other.writes}
                if concurrent and others:
                    depends[node.index] |= others
                elif key not in known:
                    own = key in node.writes and not others
                    sound = self._report_missing(node, key, stage, producers, own) and sound
            if not concurrent:
                known |= node.writes
        if not sound:
            return None
        if not concurrent:
            return tuple((node,) for node in nodes)
        if not strict:
            return (tuple(nodes),) if nodes else ()
        phases = self._levels(stage, nodes, depends)
        if phases is not None and stage != "sources" and not self._check_double_writes(phases):
            return None
        return phases

    def _report_missing(self, node: Node, key: Key, stage: Stage, producers: Mapping[Key, Stage], own: bool) -> bool:
        """Report a key that a component reads and nobody wrote before it; true if that is no mistake after all."""
        what = "query feature" if isinstance(key, QueryFeature) else "column"
        later = producers.get(key)
        if self.partial and (later is None or later == stage):
            return True
        if later is None and isinstance(key, QueryFeature) and key.optional:
            return True
        if later == stage and own:
            message = f"{node.name} reads the {what} {key.name}, which only it writes"
            self.report("E300", message, self.places[node.index], "add a component that writes it before")
            return False
        if later is None:
            hint = "add a component that writes it" + (" or an input" if isinstance(key, QueryFeature) else "")
            message = f"{node.name} reads the {what} {key.name}, which nobody writes"
            self.report("E300", message, self.places[node.index], hint)
            return False
        kind = "safety filter" if node.safety else node.kind.replace("_", " ")
        when = "later in the same stage" if later == stage else f"only in {later}"
        message = f"the {kind} {node.name} reads the {what} {key.name}, which is written {when}"
        self.report("E301", message, self.places[node.index], "move one of them")
        return False

    def _levels(self, stage: Stage, nodes: list[Node], depends: Mapping[int, set[int]]) -> tuple[Phase, ...] | None:
        done: set[int] = set()
        left = list(nodes)
        phases = []
        while left:
            ready = tuple(node for node in left if depends[node.index] <= done)
            if not ready:
                circle = _circle(left, depends)
                names = " -> ".join(node.name for node in [*circle, circle[0]])
                message = f"components of {stage} need each other's output: {names}"
                self.report("E303", message, self.places[circle[0].index], "split one of them in two")
                return None
            phases.append(ready)
            done.update(node.index for node in ready)
            left = [node for node in left if node.index not in done]
        return tuple(phases)

    def _check_double_writes(self, phases: Iterable[Phase]) -> bool:
        sound = True
        for phase in phases:
            owner: dict[Key, Node] = {}
            for node in phase:
                twice: dict[str, list[str]] = {}
                for key in sorted(all_writes(node), key=lambda key: key.name):
                    if owner.setdefault(key, node) is not node:
                        twice.setdefault(owner[key].name, []).append(key.name)
                for earlier, names in twice.items():
                    what = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
                    message = f"{earlier} and {node.name} both write {what} at the same time"
                    hint = "remove one, or let the later one read what the earlier one writes"
                    self.report("E302", message, self.places[node.index], hint)
                    sound = False
        return sound


def _circle(left: list[Node], depends: Mapping[int, set[int]]) -> list[Node]:
    """A circle among components none of which can run first, each before the one whose output it needs."""
    nodes = {node.index: node for node in left}
    walk = [left[0].index]
    while True:
        following = min(depends[walk[-1]] & nodes.keys())
        if following in walk:
            circle = walk[walk.index(following) :]
            start = circle.index(min(circle))
            return [nodes[index] for index in circle[start:] + circle[:start]]
        walk.append(following)


def all_reads(node: Node) -> tuple[Key, ...]:
    """What a component and its fallbacks read."""
    own: tuple[Key, ...] = (*node.features, *node.columns)
    return (*own, *(key for fallback in node.fallbacks for key in all_reads(fallback)))


def all_writes(node: Node) -> frozenset[Key]:
    """What a component or one of its fallbacks writes."""
    return node.writes.union(*(all_writes(fallback) for fallback in node.fallbacks))


def viewer_columns(nodes: Iterable[Node]) -> set[Column[Any]]:
    """Columns whose cells may differ between two queries for one item: something behind them reads the query.

    So does what is listwise, for which rows there are depends on the query.
    """
    nodes = list(nodes)
    found: set[Column[Any]] = set()
    while True:
        depending = [
            node for node in nodes if node.features or node.listwise or node.inner or found & set(node.columns)
        ]
        grown = {column for node in depending for column in node.written_columns}
        if grown <= found:
            return found
        found |= grown
