"""The immutable plan that a pipeline compiles into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from candidate_pipeline.keys import Column, Key, QueryFeature
from candidate_pipeline.plugin import Kind
from candidate_pipeline.spec.model import Stage


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
        prepare: The bound `prepare`, if it has one.
        features: The query features it reads.
        columns: The columns it reads.
        writes: The keys it writes.
        timeout: Seconds one call may take.
        on_error: `"skip"` or `"fail"`; without effect where there is a fallback, whose own counts when it fails too.
        fallback: The component that takes over on failure.
        safety: Whether it fails closed.
        listwise: Whether it must see live rows only.
        blocking: Whether it runs in a thread.
    """

    index: int
    name: str
    use: str
    origin: str
    kind: Kind
    stage: Stage
    component: Any = attrs.field(repr=False)
    method: Callable[..., Any] = attrs.field(repr=False)
    prepare: Callable[..., Any] | None = attrs.field(repr=False)
    features: tuple[QueryFeature[Any], ...]
    columns: tuple[Column[Any], ...]
    writes: frozenset[Key]
    timeout: float | None
    on_error: str
    fallback: Node | None
    safety: bool
    listwise: bool
    blocking: bool

    @property
    def written_columns(self) -> tuple[Column[Any], ...]:
        """The columns among `writes`."""
        return tuple(key for key in self.writes if isinstance(key, Column))

    @property
    def written_features(self) -> tuple[QueryFeature[Any], ...]:
        """The query features among `writes`."""
        return tuple(key for key in self.writes if isinstance(key, QueryFeature))


#: Components that run together.
Phase = tuple[Node, ...]


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
    """

    name: str
    inputs: Mapping[str, QueryFeature[Any]]
    phases: Mapping[Stage, tuple[Phase, ...]]
    nodes: tuple[Node, ...] = attrs.field(repr=False)
    result_size: int | None
    deadline: float | None
    show: tuple[Column[Any], ...]
