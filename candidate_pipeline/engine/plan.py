"""The immutable plan that a pipeline compiles into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import attrs

from candidate_pipeline.engine.gates import Condition
from candidate_pipeline.keys import Column, Key, QueryFeature
from candidate_pipeline.plugin import Kind
from candidate_pipeline.spec.model import BreakerPolicy, Semantics, Stage

#: Where a component stands: in a stage, or as the pipeline that tops up short responses.
Place: TypeAlias = Stage | Literal["top_up"]
#: How a component's method is called: inline, awaited, or in a thread.
Mode = Literal["plain", "async", "thread"]


@attrs.frozen
class CachePlan:
    """How a component's answers are cached.

    Args:
        features: The query features in the key.
        columns: The columns in the key; for hydrators.
        ttl_ms: How long an entry counts, in milliseconds.
        negative_ttl_ms: The same for "there is none"; 0: not kept.
        max_items: Entries kept.
    """

    features: tuple[QueryFeature[Any], ...]
    columns: tuple[Column[Any], ...]
    ttl_ms: int
    negative_ttl_ms: int
    max_items: int


@attrs.frozen
class EffectSettings:
    """How a side effect runs.

    Args:
        timeout: Seconds one try may take.
        retries: How often it is tried again.
        backoff: Seconds before the first retry, doubled for each later one.
        max_pending: How many runs may wait or run at once.
    """

    timeout: float
    retries: int
    backoff: float
    max_pending: int


@attrs.frozen(eq=False)
class Node:
    """One component in its place, with everything the engine asks of it per request looked up once.

    Args:
        index: Its number in the plan, which cells and drops carry.
        name: Its name in the spec.
        use: Its registered name (or class, for pipelines built from objects).
        origin: Distribution and version.
        kind: Its kind.
        stage: Its stage.
        component: The instance.
        method: The bound method that does the work.
        mode: How the method is called.
        prepare: The bound `prepare`, if it has one.
        features: The query features it reads, those of its gate among them.
        columns: The columns it reads.
        writes: The keys it writes.
        timeout: Seconds one call may take.
        on_error: `"skip"` or `"fail"`; without effect where there is a fallback, whose own counts when it fails too.
        fallback: The component that takes over on failure.
        on_timeout: As `on_error`, for timeouts.
        late: The component that takes over on a timeout.
        safety: Whether it fails closed.
        listwise: Whether it must see live rows only.
        gates: The conditions under which it runs.
        cache: How its answers are cached.
        breaker: When it is left alone.
        threads: How many threads it may hold, if it is blocking.
        effect: How it runs, if it is a side effect.
        sync: Whether the response waits for it, if it is a side effect.
        inner: The pipeline that answers, if it is a nested one.
        fingerprint: 16 hexadecimal digits that stand for its registered name, version, options and resources, not for
            its engine settings.
        written_columns: The columns among `writes`, by name.
        written_features: The query features among `writes`, by name.
        inline: Whether it is called in place: it is a plain def without a cache, a `prepare` or a nested pipeline.
        simple: Whether nothing but its method decides what becomes of it: it is inline, without gates and breaker.
    """

    index: int
    name: str
    use: str
    origin: str
    kind: Kind
    stage: Place
    component: Any = attrs.field(repr=False)
    method: Callable[..., Any] = attrs.field(repr=False)
    mode: Mode = "plain"
    prepare: Callable[..., Any] | None = attrs.field(default=None, repr=False)
    features: tuple[QueryFeature[Any], ...] = ()
    columns: tuple[Column[Any], ...] = ()
    writes: frozenset[Key] = frozenset()
    timeout: float | None = None
    on_error: str = "fail"
    fallback: Node | None = None
    on_timeout: str = "fail"
    late: Node | None = None
    safety: bool = False
    listwise: bool = False
    gates: tuple[Condition, ...] = ()
    cache: CachePlan | None = None
    breaker: BreakerPolicy | None = None
    threads: int = 4
    effect: EffectSettings | None = None
    sync: bool = False
    inner: Plan | None = attrs.field(default=None, repr=False)
    fingerprint: str = ""
    written_columns: tuple[Column[Any], ...] = attrs.field(init=False, repr=False)
    written_features: tuple[QueryFeature[Any], ...] = attrs.field(init=False, repr=False)
    inline: bool = attrs.field(init=False, repr=False)
    simple: bool = attrs.field(init=False, repr=False)

    @written_columns.default
    def _columns(self) -> tuple[Column[Any], ...]:
        return tuple(sorted((key for key in self.writes if isinstance(key, Column)), key=lambda key: key.name))

    @written_features.default
    def _features(self) -> tuple[QueryFeature[Any], ...]:
        return tuple(sorted((key for key in self.writes if isinstance(key, QueryFeature)), key=lambda key: key.name))

    @inline.default
    def _inline(self) -> bool:
        return self.mode == "plain" and self.cache is None and self.prepare is None and self.inner is None

    @simple.default
    def _simple(self) -> bool:
        return self.inline and not self.gates and self.breaker is None

    @property
    def fallbacks(self) -> tuple[Node, ...]:
        """The components that may take over, without repeats."""
        return tuple(dict.fromkeys(node for node in (self.fallback, self.late) if node is not None))


#: Components that run together.
Phase: TypeAlias = tuple[Node, ...]


@attrs.frozen
class Budget:
    """A stage's time, in seconds.

    Args:
        timeout: How long it may take.
        reserve: How long before the deadline it ends at the latest.
    """

    timeout: float | None = None
    reserve: float = 0.0


@attrs.frozen(eq=False)
class Plan:
    """A compiled pipeline.

    Args:
        name: The pipeline's name.
        inputs: Request parameters and the features they give.
        phases: By stage, in running order; the components of one phase run together.
        nodes: Every component, by number (fallbacks included).
        result_size: The longest response.
        deadline: Seconds a request may take.
        show: The columns that `run` prints.
        semantics: Whose rules the engine follows.
        budgets: The stages' time.
        max_refills: How often dropped rows are replaced after selection.
        min_results: The shortest response that is not topped up.
        top_up: The nested pipeline that tops up.
        config_hash: 16 hexadecimal digits that stand for all that decides how the pipeline ranks, but for its data.
        plugins: The versions of the distributions that its components and resources come from, by name.
        preparing: The components that prepare beside the sources.
        listed: How many components stand in each stage.
    """

    name: str
    inputs: Mapping[str, QueryFeature[Any]]
    phases: Mapping[Stage, tuple[Phase, ...]]
    nodes: tuple[Node, ...] = attrs.field(repr=False)
    result_size: int | None = None
    deadline: float | None = None
    show: tuple[Column[Any], ...] = ()
    semantics: Semantics = "strict"
    budgets: Mapping[Place, Budget] = attrs.field(factory=dict)
    max_refills: int = 0
    min_results: int | None = None
    top_up: Node | None = None
    config_hash: str = ""
    plugins: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    preparing: tuple[Node, ...] = attrs.field(init=False, repr=False)

    listed: Mapping[str, int] = attrs.field(init=False, repr=False)

    @listed.default
    def _listed(self) -> dict[str, int]:
        return {stage: sum(map(len, phases)) for stage, phases in self.phases.items()}

    @preparing.default
    def _preparing(self) -> tuple[Node, ...]:
        listed = (node for stage in self.phases.values() for phase in stage for node in phase)
        return tuple(node for node in listed if node.prepare is not None)
