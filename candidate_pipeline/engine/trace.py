"""What happened to each component in one request."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import attrs

from candidate_pipeline.engine.plan import Place

if TYPE_CHECKING:
    from candidate_pipeline.engine.plan import Plan
    from candidate_pipeline.query import Query

Status = Literal["ok", "skipped", "fallback", "closed"]


@attrs.define
class ComponentTrace:
    """One component's part in a request.

    Args:
        component: Its name.
        use: Its registered name.
        stage: Its stage.
        phase: Its phase within the stage, from 0.
        status: `ok`; `skipped` (it failed and was left out); `fallback` (another component took over); `closed` (its
            gate was closed, so it did not run).
        started_ms: When it started, from the start of the request, in milliseconds.
        elapsed_ms: How long it took, in milliseconds.
        rows_in: Rows it was given (0 for sources and query hydrators).
        rows_out: Rows it returned, kept or wrote.
        error: Why it was skipped, or which condition closed its gate.
        by: The component that took over.
        note: Anything else worth knowing, such as rows without a score.
        refill: The round of refilling after selection it ran in, from 1; 0 outside.
        cache_hits: Rows (of a source or query hydrator: 1) that came from the cache.
        cache_misses: Rows (or 1) that did not.
        breaker: `open` or `half-open` where its circuit was not closed.
        inner: What happened inside a nested pipeline: its `Trace`.
    """

    component: str
    use: str
    stage: Place
    phase: int = 0
    status: Status = "ok"
    started_ms: float = 0.0
    elapsed_ms: float = 0.0
    rows_in: int = 0
    rows_out: int = 0
    error: str = ""
    by: str = ""
    note: str = ""
    refill: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    breaker: str = ""
    inner: Sequence[ComponentTrace] = ()

    def as_dict(self) -> dict[str, Any]:
        """The record as plain data."""
        plain = {name: getattr(self, name) for name in _FIELDS}
        return {**plain, "inner": [entry.as_dict() for entry in self.inner]}


_FIELDS = tuple(field.name for field in attrs.fields(ComponentTrace) if field.name != "inner")


@attrs.frozen(eq=False, repr=False)
class Trace(Sequence[ComponentTrace]):
    """What happened in one request: one record a component call, in running order, and which configuration answered.

    Args:
        entries: The records.
        pipeline: The pipeline's name.
        request_id: The request's.
        config_hash: Stands for all that decides how the pipeline ranks, but for its data: `Plan.config_hash`.
        plugins: The versions of the distributions that the pipeline's components come from, by name.
        generation: How often the application had been reloaded.
        now: The request's clock.
        seed: The request's seed.
        elapsed_ms: How long the request took, in milliseconds; of one that failed, until then.
        selected: How many rows the response holds; `None` if the request failed.
        result_size: How many it may hold at most, if there is a limit.
        listed: How many components each stage has, by stage.
    """

    entries: tuple[ComponentTrace, ...]
    pipeline: str
    request_id: str
    config_hash: str
    plugins: Mapping[str, str]
    generation: int
    now: dt.datetime
    seed: int
    elapsed_ms: float
    selected: int | None
    result_size: int | None
    listed: Mapping[str, int]

    @classmethod
    def of(
        cls,
        plan: Plan,
        query: Query,
        entries: Sequence[ComponentTrace],
        *,
        generation: int = 0,
        elapsed_ms: float = 0.0,
        selected: int | None = None,
    ) -> Self:
        """The trace of a request.

        Args:
            plan: The pipeline that answered.
            query: The request's.
            entries: One record a call.
            generation: How often the application had been reloaded.
            elapsed_ms: How long it took.
            selected: How many rows the response holds, if there is one.
        """
        return cls(
            tuple(entries),
            plan.name,
            query.request_id,
            plan.config_hash,
            plan.plugins,
            generation,
            query.now,
            query.seed,
            elapsed_ms,
            selected,
            plan.result_size,
            plan.listed,
        )

    @overload
    def __getitem__(self, at: int) -> ComponentTrace: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[ComponentTrace, ...]: ...
    def __getitem__(self, at: int | slice) -> ComponentTrace | tuple[ComponentTrace, ...]:
        return self.entries[at]

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[ComponentTrace]:
        return iter(self.entries)

    def __eq__(self, other: object) -> bool:
        """Whether another trace, or a tuple or list of records, holds the same records."""
        if isinstance(other, Trace | tuple | list):
            return self.entries == tuple(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # its records can change until the request has been answered

    def __repr__(self) -> str:
        found = "failed" if self.selected is None else f"{self.selected} rows"
        return (
            f"<Trace of {self.pipeline} {self.request_id}: {len(self)} calls, {found}, {self.elapsed_ms:.1f} ms, "
            f"config {self.config_hash}>"
        )

    def why_short(self) -> str:
        """Why the response holds fewer rows than asked for, in a sentence; empty if it does not, or there is none."""
        found, size = self.selected, self.result_size
        if found is None or (found and (size is None or found >= size)):
            return ""
        reasons = [f"{entry.component} failed ({entry.error})" for entry in self if entry.status == "skipped"]
        reasons += [
            f"the gate of {entry.component} was closed ({entry.error})"
            for entry in self
            if entry.status == "closed" and entry.stage == "sources"
        ]
        answered = [entry for entry in self if entry.status == "ok"]
        fetched = self.fetched
        if fetched == 0:
            sources = {entry.component: None for entry in self if entry.stage == "sources"}
            reasons.append(f"the sources returned nothing ({', '.join(sources)})")
        cuts = self.dropped
        most = sorted(cuts, key=lambda name: -cuts[name])[:3]
        reasons += [f"{name} dropped {cuts[name]}" for name in most]
        reasons += [
            f"{entry.component} chose {entry.rows_out} of {entry.rows_in}"
            for entry in answered
            if entry.stage == "selector" and entry.rows_in > entry.rows_out and not entry.refill
        ]
        wanted = "" if size is None else f" of at most {size}"
        summary = f"{found}{wanted} rows out of {fetched} fetched"
        return f"{summary}: {'; '.join(reasons)}" if reasons else summary

    @property
    def fetched(self) -> int:
        """How many rows the sources returned in all, each counted as often as it was returned."""
        return sum(entry.rows_out for entry in self if entry.stage == "sources" and entry.status == "ok")

    @property
    def dropped(self) -> dict[str, int]:
        """How many rows filters dropped, by filter, over all rounds of refilling; those that dropped none left out."""
        cuts: dict[str, int] = {}
        for entry in self:
            if entry.stage.endswith("filters") and entry.status == "ok" and entry.rows_in > entry.rows_out:
                cuts[entry.component] = cuts.get(entry.component, 0) + entry.rows_in - entry.rows_out
        return cuts

    def as_dict(self) -> dict[str, Any]:
        """The trace as plain data, its records under `components`."""
        return {
            "pipeline": self.pipeline,
            "request_id": self.request_id,
            "config_hash": self.config_hash,
            "plugins": dict(self.plugins),
            "generation": self.generation,
            "now": self.now.astimezone(dt.UTC).isoformat(),
            "seed": self.seed,
            "elapsed_ms": round(self.elapsed_ms, 3),
            "selected": self.selected,
            "result_size": self.result_size,
            "why_short": self.why_short(),
            "components": [entry.as_dict() for entry in self],
        }

    def as_upstream(self) -> dict[str, Any]:
        """The trace in the schema of the published `PipelineTrace` (x-algorithm, October 2026 release).

        See `candidate_pipeline.engine.upstream_trace`.
        """
        from candidate_pipeline.engine.upstream_trace import upstream_trace

        return upstream_trace(self)
