"""Compiling a component's engine settings, `run = {...}`, with every mistake reported."""

from __future__ import annotations

import datetime as dt
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from candidate_pipeline.components import METHODS
from candidate_pipeline.engine.contract import SYNC, declared
from candidate_pipeline.engine.gates import Condition, conditions_of
from candidate_pipeline.engine.nested import NestedPipeline
from candidate_pipeline.engine.phases import Report
from candidate_pipeline.engine.plan import CachePlan, EffectSettings, Mode
from candidate_pipeline.keys import ITEM_ID, Column, Key, QueryFeature, key_names
from candidate_pipeline.options import format_duration
from candidate_pipeline.plugin import Kind
from candidate_pipeline.spec.fingerprint import Identity, identity_of_object
from candidate_pipeline.spec.model import STAGES, PipelineOptions, RunPolicy, Semantics, Stage
from candidate_pipeline.spec.positions import TomlPath
from candidate_pipeline.spec.problems import nearest

#: What a failure does where the spec does not say.
DEFAULT_ON_ERROR: Final[Mapping[Kind, str]] = {
    "query_hydrator": "skip",
    "source": "skip",
    "hydrator": "skip",
    "filter": "skip",
    "scorer": "fail",
    "selector": "fail",
    "side_effect": "skip",
}
#: The same under the published semantics.
UPSTREAM_ON_ERROR: Final[Mapping[Kind, str]] = {**DEFAULT_ON_ERROR, "filter": "fail", "scorer": "skip"}

_CACHED: Final = frozenset({"query_hydrator", "source", "hydrator"})
_EFFECT_KEYS: Final = ("sync", "retries", "backoff", "max_pending")
_EFFECT_TIMEOUT: Final = dt.timedelta(seconds=30)
_EFFECT_BACKOFF: Final = dt.timedelta(milliseconds=100)


@attrs.frozen(eq=False)
class Member:
    """A component instance in its stage, before compiling.

    Args:
        name: Its name in the spec.
        component: The instance.
        stage: Its stage.
        run: Its engine settings.
        use: Its registered name or class.
        origin: Distribution and version.
        path: Where its settings stand, for messages.
        place: Where it is listed, for messages.
        identity: Its fingerprint and versions; default: made from the instance.
    """

    name: str
    component: Any
    stage: Stage
    run: RunPolicy = attrs.field(factory=RunPolicy)
    use: str = ""
    origin: str = ""
    path: TomlPath = ()
    place: TomlPath = ()
    identity: Identity = attrs.field()

    @identity.default
    def _identity(self) -> Identity:
        return identity_of_object(self.component)

    @property
    def kind(self) -> Kind:
        """The kind its stage holds."""
        return STAGES[self.stage]

    @property
    def method(self) -> Callable[..., Any]:
        """The bound method that does its work."""
        method: Callable[..., Any] = getattr(self.component, METHODS[self.kind])
        return method

    @property
    def mode(self) -> Mode:
        """How the method is called."""
        if inspect.iscoroutinefunction(self.method):
            return "async"
        return "thread" if getattr(self.component, "blocking", False) else "plain"

    def at(self, key: str) -> TomlPath:
        """Where an engine setting stands."""
        return (*self.path, "run", key)


@attrs.define(eq=False)
class Policies:
    """Compiles engine settings.

    Args:
        report: Where mistakes go.
        options: The pipeline's settings.
        features: The query features that are given or written in the pipeline, by name.
        stage_gates: The gates that whole stages have.
    """

    report: Report
    options: PipelineOptions
    features: Mapping[str, QueryFeature[Any]]
    stage_gates: Mapping[str, tuple[Condition, ...]] = attrs.field(factory=dict)

    @property
    def semantics(self) -> Semantics:
        """Whose rules hold."""
        return self.options.semantics

    def check(self, member: Member) -> None:
        """Report settings that a component of its kind cannot have."""
        run, kind, words = member.run, member.kind, member.kind.replace("_", " ")
        if run.safety is not None and kind != "filter":
            self.report("E306", "only a filter has safety", member.at("safety"), "remove the key")
        if kind != "side_effect":
            for key in _EFFECT_KEYS:
                if getattr(run, key) is not None:
                    self._useless(member, key, f"it is for side effects, {member.name} is a {words}")
        elif run.sync and run.max_pending is not None:
            self._useless(member, "max_pending", "the response waits for it, so nothing is pending")
        if run.threads is not None and member.mode != "thread":
            self._useless(member, "threads", f"{member.name} is not blocking: it runs on the event loop")
        if run.breaker is not None and kind in {"filter", "selector", "side_effect"}:
            self._useless(member, "breaker", f"a {words} has no breaker")
        if self.semantics == "upstream":
            for key in ("on_error", "on_timeout", "breaker"):
                if getattr(run, key) not in {None, UPSTREAM_ON_ERROR[kind]}:
                    self._useless(member, key, "the published semantics has one policy a kind")
        self._check_timeout(member)

    def _useless(self, member: Member, key: str, why: str) -> None:
        self.report("E311", f"{member.name}: {key} has no effect: {why}", member.at(key), "remove the key")

    def _check_timeout(self, member: Member) -> None:
        run, plain = member.run, member.mode == "plain"
        what = f"{member.name}.{METHODS[member.kind]} is a plain def, which cannot be interrupted"
        for key in ("timeout", "on_timeout"):
            if getattr(run, key) is None:
                continue
            if member.kind in SYNC:
                self.report("E304", what, member.at(key), f"remove the {key}: a {member.kind} is synchronous")
            elif plain:
                self.report("E304", what, member.at(key), "make it async def, or set blocking = True on its class")
        if run.timeout is None or member.kind == "side_effect":
            return
        stage = self.options.stages.get(member.stage)
        limits = {"deadline": self.options.deadline, f"timeout of {member.stage}": stage.timeout if stage else None}
        for name, limit in limits.items():
            if limit is not None and run.timeout > limit:
                message = (
                    f"the timeout {format_duration(run.timeout)} is longer than the {name} {format_duration(limit)}"
                )
                hint = "shorten the one or lengthen the other"
                self.report("E305", f"{member.name}: {message}", member.at("timeout"), hint)

    def gates(self, member: Member, safety: bool) -> tuple[Condition, ...]:
        """The conditions under which a component runs."""
        own = conditions_of(
            member.run.when,
            self.features,
            lambda code, message, hint, at: self.report(
                code, f"{member.name}: {message}", (*member.at("when"), *at), hint
            ),
        )
        inherited = self.stage_gates.get(member.stage, ())
        if (own or inherited) and self.semantics == "strict" and (safety or member.kind == "selector"):
            what = "a safety filter" if safety else "a selector"
            path = member.at("when") if own else member.place
            hint = "remove the conditions, of the stage or its own"
            self.report("E306", f"{member.name}: {what} cannot have a gate, which would leave it out", path, hint)
        return (*inherited, *own)

    def effect(self, member: Member) -> EffectSettings | None:
        """How a side effect runs."""
        if member.kind != "side_effect":
            return None
        run = member.run
        return EffectSettings(
            timeout=(run.timeout or _EFFECT_TIMEOUT).total_seconds(),
            retries=2 if run.retries is None else run.retries,
            backoff=(run.backoff or _EFFECT_BACKOFF).total_seconds(),
            max_pending=1000 if run.max_pending is None else run.max_pending,
        )

    def cache(self, member: Member) -> CachePlan | None:
        """How a component's answers are cached."""
        policy, component = member.run.cache, member.component
        if policy is None:
            return None
        if member.kind not in _CACHED or isinstance(component, NestedPipeline):
            what = "a nested pipeline" if isinstance(component, NestedPipeline) else f"a {member.kind}"
            self._useless(member, "cache", f"{what.replace('_', ' ')} has no cache")
            return None
        if callable(getattr(component, "prepare", None)) and member.kind == "hydrator":
            self._useless(member, "cache", "what prepare returns may depend on the whole query")
            return None
        reads = declared(component, "reads")
        known: dict[str, Key] = {key.name: key for key in reads}
        if member.kind == "hydrator":
            known.setdefault(ITEM_ID.name, ITEM_ID)
        keys: tuple[Key, ...] = tuple(dict.fromkeys(reads))
        if member.kind == "hydrator" and not any(isinstance(key, Column) for key in keys):
            keys = (*keys, ITEM_ID)
        if policy.key is not None:
            keys = self._named_keys(member, policy.key, known)
            left = [key for key in reads if isinstance(key, QueryFeature) and key not in keys]
            if left and len(keys) == len(set(policy.key)):  # else an unknown name may be a wrong spelling
                message = f"{member.name} reads {key_names(left)}, which the key of its cache leaves out"
                hint = "add it to key, or leave key out: what was found for one viewer must not reach another"
                self.report("E309", message, (*member.at("cache"), "key"), hint)
        columns = tuple(key for key in keys if isinstance(key, Column))
        unknown = policy.key is not None and len(keys) < len(set(policy.key))  # which was reported
        if member.kind == "hydrator" and not columns and not unknown:
            message = f"{member.name}: the key of a hydrator's cache needs a column"
            self.report("E309", message, (*member.at("cache"), "key"), f"add {ITEM_ID.name!r}, or leave key out")
        negative = policy.ttl if policy.negative_ttl is None else policy.negative_ttl
        millisecond = dt.timedelta(milliseconds=1)
        return CachePlan(
            features=tuple(key for key in keys if isinstance(key, QueryFeature)),
            columns=columns,
            ttl_ms=max(1, policy.ttl // millisecond),
            negative_ttl_ms=negative // millisecond,
            max_items=policy.max_items,
        )

    def _named_keys(self, member: Member, names: tuple[str, ...], known: Mapping[str, Key]) -> tuple[Key, ...]:
        found: list[Key] = []
        for at, name in enumerate(names):
            if name in known:
                found.append(known[name])
                continue
            hint = nearest(name, known) or f"it reads {', '.join(known) or 'nothing'}"
            message = f"{member.name}: {name!r} is not among what it reads"
            self.report("E205", message, (*member.at("cache"), "key", at), hint)
        return tuple(dict.fromkeys(found))
