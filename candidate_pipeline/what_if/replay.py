"""Replay: a recorded request, ranked again.

Query hydrators, sources and hydrators give their recorded answers; filters, scorers and selectors run, those of an
application that may be another one than the one recorded::

    capture = Capture.read("captures/3f2a.capture")
    async with load("new.toml", only=()) as app:      # opens what the replay turns out to need
        outcome = await replay(app, capture)
    diff(capture.ranking, Ranking.of(outcome))

A recorded answer counts if the component is the same (name, registered name, settings, resources) and is asked the
same: the query features and the columns that it declares to read have the values they had. So what comes out is what a
fresh request would have given, had nothing in the world changed since. Timeouts, deadlines and circuit breakers of the
spec do not apply, for time passes differently; those that struck when it was recorded strike again. Side effects never
run.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from candidate_pipeline.components import METHODS
from candidate_pipeline.engine.contract import contract_faults, declared
from candidate_pipeline.engine.nested import NestedPipeline
from candidate_pipeline.engine.plan import Mode, Node, Plan
from candidate_pipeline.engine.recording import places_of
from candidate_pipeline.engine.runtime import Runtime
from candidate_pipeline.engine.serve import serve
from candidate_pipeline.errors import CaptureError, MisconfigurationError, RequestError
from candidate_pipeline.keys import Column, QueryFeature
from candidate_pipeline.outcome import Outcome
from candidate_pipeline.query import Query
from candidate_pipeline.spec.problems import nearest
from candidate_pipeline.what_if.answers import (
    LIVE,
    Answered,
    Faltering,
    Live,
    Memory,
    Remembering,
    Session,
    Stored,
    StoredCells,
    answered,
    remembered,
)
from candidate_pipeline.what_if.capture import Capture, RecordedComponent, Recording

if TYPE_CHECKING:
    from candidate_pipeline.app import App

_IMPURE = frozenset({"query_hydrator", "source", "hydrator"})


@attrs.frozen(eq=False)
class Replayed(Outcome):
    """The outcome of a replay.

    Args:
        live: The query hydrators, sources and hydrators that ran, because the capture has no answer of theirs that
            fits; what they found may not be what there was.
        reused: The scorers whose recorded columns were used instead of running them.
        notes: What else sets the replay apart from a request, such as rows that nothing is recorded of.
    """

    live: tuple[str, ...] = ()
    reused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


async def replay(app: App, capture: Capture, *, reuse: Sequence[str] = (), live: Live = "changed") -> Replayed:
    """Rank a recorded request again.

    Args:
        app: An open application with a pipeline of the capture's name. Resources that it left closed (`only=()`) are
            opened as the replay turns out to need them.
        capture: The request.
        reuse: Scorers whose recorded columns are used instead of running them.
        live: What becomes of a query hydrator, source or hydrator that the capture has no fitting answer of:
            `"changed"`: it runs; `"never"`: that is an error, but for single rows of which nothing is recorded, whose
            cells fail; `"recorded"`: what is recorded under its name is used, whether or not it fits.

    Raises:
        CaptureError: The capture does not fit the pipeline, or lacks what may not run.
        RequestError: A component failed that must not.
        MisconfigurationError: There is no such pipeline or scorer, or the application is not open.
    """
    return await Replayer(app, capture, reuse=reuse, live=live, remember=False).run()


class Replayer:
    """Replays one request as often as wanted, with components replaced.

    Args:
        app: As for `replay`.
        capture: The request.
        reuse: As for `replay`.
        live: As for `replay`.
        remember: Whether a scorer that is asked what it was asked before, when the request was recorded or in an
            earlier run, gives the same answer without running. Its model is then not opened.
    """

    def __init__(
        self,
        app: App,
        capture: Capture,
        *,
        reuse: Sequence[str] = (),
        live: Live = "changed",
        remember: bool = True,
    ) -> None:
        """Find the pipeline; nothing runs yet.

        Raises:
            MisconfigurationError: The application has no pipeline of the capture's name, or the pipeline no scorer
                that is to be reused.
            CaptureError: The capture does not fit the pipeline.
        """
        if live not in LIVE:
            raise MisconfigurationError(f"live: wanted one of {', '.join(LIVE)}, found {live!r}")
        self.app, self.capture, self.live = app, capture, live
        self.plan = app[capture.pipeline].plan
        self.reuse = tuple(reuse)
        scorers = {node.name for node in self.plan.nodes if node.kind == "scorer"}
        for name in self.reuse:
            if name not in scorers:
                hint = nearest(name, scorers)
                raise MisconfigurationError(f"reuse: pipeline {self.plan.name!r} has no scorer {name!r}: {hint}")
        self.query = _query(self.plan, capture)
        self.memories: dict[tuple[str, ...], Memory] | None = {} if remember else None
        self.lessons: dict[tuple[str, ...], list[Answered]] = {}
        self._answered: dict[tuple[RecordedComponent, int], list[Answered]] = {}

    async def run(self, changes: Mapping[str, Any] | None = None) -> Replayed:
        """Rank the request again.

        Args:
            changes: Components that stand in for others, by the name of what they replace: of the same kind, with the
                same writes.

        Raises:
            CaptureError: As for `replay`.
            RequestError: A component failed that must not.
            MisconfigurationError: A change replaces nothing, or with what cannot be there.
        """
        session = Session(self.app, self.live)
        known = {node.name for node in self.plan.nodes if node.kind != "side_effect"}
        for name in changes or ():
            if name not in known:
                hint = nearest(name, known)
                raise MisconfigurationError(f"pipeline {self.plan.name!r} has no component {name!r} to replace: {hint}")
        derived = _Derived(self, session, self.plan, self.capture.recording, dict(changes or {}))
        plan = derived.derive()
        await self.app.open_for(derived.running)
        runtime = Runtime(secrets=self.app.runtime.secrets)
        try:
            outcome = await serve(runtime, plan, self.query)
        except RequestError as error:
            if session.refused is not None:
                raise session.refused from error
            raise
        finally:
            await runtime.close(0)
        if session.refused is not None:
            raise session.refused
        same: dict[str, Any] = {
            str(each.alias): getattr(outcome, each.name) for each in attrs.fields(Outcome) if each.init
        }
        return Replayed(
            **same,
            live=tuple(session.ran),
            reused=tuple(session.reused),
            notes=(*self._other_data(), *self._left_out(), *session.notes),
        )

    def _other_data(self) -> tuple[str, ...]:
        """A note where models and tables are those of another data set than the recorded request had."""
        dataset = self.app.dataset
        name = "" if dataset is None else dataset.name
        if name == self.capture.dataset:
            return ()
        before, now = self.capture.dataset or "none", name or "none"
        return (f"recorded over the data set {before!r}, ranked again over {now!r}: give the same --data",)

    def _left_out(self) -> tuple[str, ...]:
        """A note where the recorded request had an input that the pipeline knows nothing of."""
        known = {feature.name for feature in self.query.features}
        names = ", ".join(name for name in self.capture.inputs if name not in known)
        return (f"inputs of the recorded request that {self.plan.name!r} does not take: {names}",) if names else ()

    def answered(self, component: RecordedComponent, node: Node) -> list[Answered]:
        """The recorded calls of a component, for a node that stands for it.

        Raises:
            CaptureError: They are not what calls of such a component can be.
        """
        found = self._answered.get((component, node.index))
        if found is None:
            found = self._answered[component, node.index] = answered(component, node, self.capture.arrays)
        return found


def _query(plan: Plan, capture: Capture) -> Query:
    """The query of a capture, for a pipeline.

    Raises:
        CaptureError: An input that the pipeline needs is not in the capture.
    """
    features = dict.fromkeys(plan.inputs.values())
    features |= dict.fromkeys(feature for node in plan.nodes for feature in node.features)
    query = capture.query(features)
    for name, feature in plan.inputs.items():
        if feature not in query and not feature.has_default:
            have = ", ".join(capture.inputs) or "none"
            raise CaptureError(
                f"pipeline {plan.name!r} needs the input {name!r} ({feature.name}), which the capture lacks; "
                f"it has: {have}"
            )
    return query


@attrs.define(eq=False)
class _Derived:
    """A plan in which recorded answers stand in for components.

    Args:
        replayer: The replayer.
        session: The run.
        plan: The application's plan.
        recording: What is recorded of it, if anything is.
        changes: Components that stand in for others, by name.
        path: The components that the plan is nested in.
        running: The components that will run for certain.
    """

    replayer: Replayer
    session: Session
    plan: Plan
    recording: Recording | None
    changes: Mapping[str, Any]
    path: tuple[str, ...] = ()
    running: list[Any] = attrs.field(factory=list)
    places: dict[int, str] = attrs.field(init=False)
    made: dict[int, Node] = attrs.field(factory=dict)

    @places.default
    def _places(self) -> dict[int, str]:
        return places_of(self.plan)

    def derive(self) -> Plan:
        """The plan."""
        plan = self.plan
        phases = {
            stage: () if stage == "side_effects" else tuple(tuple(map(self.node, phase)) for phase in listed_phases)
            for stage, listed_phases in plan.phases.items()
        }
        top_up = None if plan.top_up is None else self.node(plan.top_up)
        nodes = tuple(node if node.kind == "side_effect" else self.node(node) for node in plan.nodes)
        return attrs.evolve(plan, phases=phases, nodes=nodes, top_up=top_up, deadline=None, budgets={})

    def node(self, node: Node) -> Node:
        """What stands for a component."""
        made = self.made.get(node.index)
        if made is None:
            fallback = None if node.fallback is None else self.node(node.fallback)
            late = None if node.late is None else self.node(node.late)
            if node.name in self.changes:
                node = _with_component(node, self.changes[node.name])
            made = attrs.evolve(self._standing(node), timeout=None, breaker=None, fallback=fallback, late=late)
            self.made[node.index] = made
        return made

    def _standing(self, node: Node) -> Node:
        if node.inner is not None:
            return self._nested(node)
        if node.kind in _IMPURE:
            return self._impure(node)
        if node.kind == "scorer" and node.name in self.replayer.reuse:
            return self._reused(node)
        return self._pure(node)

    # Components that are asked nothing any more

    def _impure(self, node: Node) -> Node:
        calls = self._calls(node, any_settings=self.session.live == "recorded")
        lessons = self._lessons(node)
        if node.kind == "hydrator":
            by_id = self.session.live == "recorded" and bool(calls)
            return _plain(node, StoredCells(node, calls, self.session, by_id, lessons))
        return _plain(node, Stored(node, calls, self.session, lessons))

    def _lessons(self, node: Node) -> list[Answered]:
        """What a component answered in earlier runs, as long as it is the same."""
        if node.name in self.changes:
            return []
        return self.replayer.lessons.setdefault((*self.path, self.places.get(node.index, "")), [])

    def _reused(self, node: Node) -> Node:
        calls = self._calls(node, any_settings=True)
        if not calls:
            raise CaptureError(f"reuse: the capture has no columns of {node.name}, which did not run")
        self.session.reused[node.name] = None
        return _plain(node, StoredCells(node, calls, self.session, by_id=True, lessons=self._lessons(node)))

    def _calls(self, node: Node, *, any_settings: bool) -> list[Answered]:
        """The recorded calls of a component, those at its own place first."""
        found: list[Answered] = []
        for component in self._records(node):
            same = component.use == node.use and component.fingerprint == node.fingerprint != ""
            if same or any_settings:
                found += self.replayer.answered(component, node)
        missing = {key: why for call in found for key, why in call.call.uncaptured.items()}
        needed = self._read_by_others(missing, node)
        if needed:
            key, reader = needed
            if self.session.live == "changed" and node.kind != "scorer":
                return []
            raise CaptureError(
                f"{key}, which {node.name} writes and {reader} reads, was not captured: {missing[key]}; "
                f"let {node.name} run with live = 'changed'"
            )
        return found

    def _records(self, node: Node) -> list[RecordedComponent]:
        if self.recording is None:
            return []
        own = self.places.get(node.index, "")
        records = [
            each
            for each in self.recording.components.values()
            if each.name == node.name and each.kind == node.kind and each.calls
        ]
        return sorted(records, key=lambda each: each.place != own)

    def _read_by_others(self, keys: Mapping[str, str], writer: Node) -> tuple[str, str] | None:
        """A key among those given that a component reads which runs for certain, and the component."""
        for node in self.plan.nodes if keys else ():
            if node.kind in _IMPURE or node.kind == "side_effect" or node.index == writer.index:
                continue
            for name in [*(key.name for key in node.features), *(key.name for key in node.columns)]:
                if name in keys:
                    return name, node.name
        return None

    # Components that run

    def _pure(self, node: Node) -> Node:
        place = self.places.get(node.index, "")
        record = None if self.recording is None else self.recording.components.get(place)
        calls = []
        if record is not None and record.use == node.use and record.fingerprint == node.fingerprint != "":
            calls = self.replayer.answered(record, node)
        failures = [call for call in calls if call.call.outside and not call.ok]
        if failures:
            return _plain(node, Faltering(node, failures, self.session))
        memories = self.replayer.memories
        if node.kind == "scorer" and memories is not None and node.name not in self.changes:
            memory = memories.setdefault((*self.path, place), remembered(calls))
            return _plain(node, Remembering(node, memory, self.session))
        self.running.append(node.component)
        return node

    def _nested(self, node: Node) -> Node:
        plan, place = node.component.plan, self.places.get(node.index, "")
        record = None if self.recording is None else self.recording.components.get(place)
        within = None if self.recording is None else self.recording.inner.get(place)
        if record is not None and within is not None and within.config_hash == plan.config_hash:
            calls = self.replayer.answered(record, node)
            if calls and not any(call.ok for call in calls):
                return _plain(node, lambda *_: calls[0].result())
        inner = _Derived(self.replayer, self.session, plan, within, {}, (*self.path, place), self.running)
        derived = inner.derive()
        nested = NestedPipeline(derived)
        return attrs.evolve(node, component=nested, method=nested.fetch, inner=derived)


def _plain(node: Node, method: Any) -> Node:
    """A node that calls `method` in place and nothing around it."""
    return attrs.evolve(node, method=method, mode="plain", prepare=None, cache=None, inner=None)


def _with_component(node: Node, component: Any) -> Node:
    """A node with another component in its place.

    Raises:
        MisconfigurationError: The component is not of the node's kind, or does not write what the other one writes.
    """
    faults = contract_faults(component, node.kind)
    if faults:
        raise MisconfigurationError(f"a {type(component).__name__} cannot replace {node.name}: {'; '.join(faults)}")
    writes = frozenset(declared(component, "writes"))
    if writes != node.writes:
        raise MisconfigurationError(f"a {type(component).__name__} cannot replace {node.name}: it writes other keys")
    method = getattr(component, METHODS[node.kind])
    mode: Mode = "thread" if getattr(component, "blocking", False) else "plain"
    reads = [*declared(component, "reads"), *(gate.feature for gate in node.gates)]
    return attrs.evolve(
        node,
        component=component,
        method=method,
        mode="async" if inspect.iscoroutinefunction(method) else mode,
        prepare=getattr(component, "prepare", None) if node.kind in {"hydrator", "scorer"} else None,
        features=tuple(dict.fromkeys(key for key in reads if isinstance(key, QueryFeature))),
        columns=tuple(key for key in reads if isinstance(key, Column)),
        listwise=bool(getattr(component, "listwise", False)),
        fingerprint="",
    )
