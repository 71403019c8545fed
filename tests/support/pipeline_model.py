"""A slow and plain model of what a request does: rows as dictionaries, time as arithmetic, no numpy, no event loop.

It reads the scripts of `candidate_pipeline.testing.scripted` and says what must come out of them. Where the rules leave
something open, such as two things due at the same instant, it raises `OpenQuestionError` instead of guessing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import attrs
from pipeline_model_answers import (
    ANSWERS,
    FAILED,
    OpenQuestionError,
    Plain,
    Row,
    Settings,
    default_of,
    fault_shows,
    holds,
    lay,
    places_of,
    reads,
    run_of,
    writes,
)

NEVER = math.inf
#: Instants nearer to each other than this are the same, in milliseconds.
CLOSE = 1e-6

CONCURRENT = ("query_hydrators", "hydrators", "post_selection_hydrators")
FAILS_BY_DEFAULT = {"scorer", "selector"}
KINDS = {
    "query_hydrators": "query_hydrator",
    "dependent_query_hydrators": "query_hydrator",
    "sources": "source",
    "hydrators": "hydrator",
    "filters": "filter",
    "scorers": "scorer",
    "selector": "selector",
    "post_selection_hydrators": "hydrator",
    "post_selection_filters": "filter",
    "side_effects": "side_effect",
}


class RequestFailedError(Exception):
    """The request ends here: when, and which components may be the first to be blamed."""

    def __init__(self, at: float, names: Iterable[str]) -> None:
        super().__init__(at)
        self.at = at
        self.names = sorted(set(names))


@attrs.frozen
class Answer:
    """How the call of a component ended.

    Args:
        status: `ok`, `skipped`, `closed`, or `fail`.
        at: When.
        by: The component that answered, which may be a fallback; or the one that failed.
        value: What it answered.
    """

    status: str
    at: float
    by: Settings
    value: Plain = None


@attrs.define
class Model:
    """One request.

    Args:
        script: The script.
        clock: Milliseconds since the request came.
        features: Present query features.
        broken: Failed query features.
        trace: Statuses by component.
        dropped: What filters dropped, in order.
    """

    script: Settings
    clock: float = 0.0
    features: dict[str, int] = attrs.field(factory=dict)
    broken: set[str] = attrs.field(factory=set)
    trace: dict[str, list[str]] = attrs.field(factory=dict)
    dropped: list[dict[str, Plain]] = attrs.field(factory=list)

    @property
    def strict(self) -> bool:
        """Which semantics."""
        return bool(self.script.get("semantics", "strict") == "strict")

    def stage(self, name: str) -> list[Settings]:
        """The components of a stage."""
        found = self.script.get(name, [])
        return [found] if isinstance(found, Mapping) else list(found)

    # The request

    def run(self) -> dict[str, Plain]:
        """What happens, as `run_script` tells it; `failed` is a list of names of which one is to be blamed."""
        self.features = dict(self.script.get("inputs", {}))
        try:
            return self._request()
        except RequestFailedError as failure:
            return {"failed": failure.names, "elapsed_ms": failure.at}

    def _request(self) -> dict[str, Plain]:
        self.hydrate_query("query_hydrators")
        self.hydrate_query("dependent_query_hydrators")
        rows = self.fetch()
        retrieved = [dict(row) for row in rows]
        rows = self.hydrate("hydrators", rows)
        if not self.strict:
            retrieved = [dict(row) for row in rows]
        rows = self.filter("filters", rows)
        rows = self.score(rows)
        chosen, rest = self.select(rows)
        chosen = self.hydrate("post_selection_hydrators", chosen)
        first = len(chosen)
        chosen = self.filter("post_selection_filters", chosen)
        if self.strict:
            chosen, rest = self.refill(chosen, rest, first)
        size = self.script.get("result_size")
        selected, overflow = (chosen, []) if size is None else (chosen[:size], chosen[size:])
        unselected = overflow + rest if self.strict else rest + overflow
        return {
            "selected": selected,
            "unselected": unselected,
            "retrieved": retrieved,
            "dropped": self.dropped,
            "query": {**self.features, **dict.fromkeys(self.broken, FAILED)},
            "trace": self.trace,
            "elapsed_ms": self.clock,
            "side_effects": {effect["name"]: self.tries(effect) for effect in self.stage("side_effects")},
        }

    def tries(self, effect: Settings) -> int:
        """How often a side effect is tried."""
        if not self.gate(effect, "side_effects", self.features):
            return 0
        run = run_of(effect)
        if any(name in self.broken and default_of(name) is None for name in [*reads(effect), *run.get("when", {})]):
            raise OpenQuestionError
        absent = any(name not in self.features and default_of(name) is None for name in reads(effect))
        late = effect.get("delay_ms", 0) > run.get("timeout_ms", 30_000) or effect.get("fault") == "hang"
        return 1 + int(run.get("retries", 2)) if effect.get("fault") or late or absent else 1

    # Time and failure

    def ends(self, stage: str, start: float) -> float:
        """When a stage that starts at `start` must end."""
        options = self.script.get("stages", {}).get(stage, {})
        deadline = self.script.get("deadline_ms", NEVER)
        timeout: float = options.get("timeout_ms", NEVER)
        return float(min(start + timeout, deadline - options.get("reserve_ms", 0)))

    def gate(self, component: Settings, stage: str, features: Mapping[str, int]) -> bool:
        """Whether all conditions hold on the features."""
        tables = [run_of(component).get("when", {}), self.script.get("stages", {}).get(stage, {}).get("when", {})]
        return all(holds(name, wanted, features) for table in tables for name, wanted in table.items())

    def broken_gate(self, component: Settings, stage: str) -> bool:
        """Whether a feature that a component's gate tests failed."""
        gates = [*run_of(component).get("when", {}), *self.script.get("stages", {}).get(stage, {}).get("when", {})]
        for name in gates:
            if name in self.broken and default_of(name) is not None:
                raise OpenQuestionError
        return any(name in self.broken for name in gates)

    def broken_read(self, component: Settings, safety: bool) -> bool:
        """Whether a feature that a component reads failed."""
        return any(name in self.broken and (default_of(name) is None or safety) for name in reads(component))

    def call(
        self,
        component: Settings,
        stage: str,
        ends: float,
        rows: list[Row],
        start: float,
        *,
        stands_in: bool = False,
    ) -> Answer:
        """Call a component; where it fails, do what its policy says."""
        kind = KINDS[stage]
        run = run_of(component)
        safety = bool(run.get("safety", False)) and kind == "filter"
        features = self.features
        plain = component.get("plain", False) or kind in {"filter", "selector"}
        limit = NEVER if plain else min(start + run.get("timeout_ms", NEVER), ends)
        fault = component.get("fault")
        late = False
        at = start
        value: Plain = None
        if self.broken_gate(component, stage):
            good = False
        elif not self.gate(component, stage, features):
            self.trace.setdefault(component["name"], []).append("closed")
            if stands_in:  # a fallback that stays out leaves the failure as it is
                return self.given_up(component, stage, ends, rows, start, safety)
            return Answer("closed", start, component)
        elif self.broken_read(component, safety):
            good = False
        elif any(name[0] == "q" and name not in features and default_of(name) is None for name in reads(component)):
            good = False
            if limit <= start:
                raise OpenQuestionError  # a component that has no time may fail for either reason
        else:
            done = start + component.get("delay_ms", 0) if fault not in {"hang", "swallow"} else NEVER
            if fault in {"hang", "swallow"} and limit == NEVER:
                raise OpenQuestionError
            if abs(done - limit) < CLOSE:
                raise OpenQuestionError
            late = done > limit
            at = max(start, limit) if late else done
            if not late and fault in {"request_error", "misconfigured"}:
                return Answer("fail", at, component)
            good = not late and not fault_shows(fault, kind, len(rows))
            value = self.answer(kind, component, rows) if good else None
        if good:
            self.trace.setdefault(component["name"], []).append("ok")
            return Answer("ok", at, component, value)
        return self.failed(component, stage, ends, rows, at, late, safety)

    def answer(self, kind: str, component: Settings, rows: list[Row]) -> Plain:
        """What a component answers."""
        if kind == "selector":
            return places_of(self.strict, component, rows)
        return ANSWERS[kind](component, self.features, rows)

    def failed(
        self, component: Settings, stage: str, ends: float, rows: list[Row], at: float, late: bool, safety: bool
    ) -> Answer:
        """What becomes of a component that failed."""
        kind = KINDS[stage]
        run = run_of(component)
        policy = "fail" if kind in FAILS_BY_DEFAULT or safety else "skip"
        if not self.strict:
            policy = "fail" if kind in {"filter", "selector"} else "skip"
        policy = run.get("on_error", policy)
        if late:
            policy = run.get("on_timeout", policy)
        if policy == "fail":
            return Answer("fail", at, component)
        self.trace.setdefault(component["name"], []).append("skipped" if policy == "skip" else "fallback")
        return self.settled(policy, component, stage, ends, rows, at)

    def given_up(
        self, component: Settings, stage: str, ends: float, rows: list[Row], at: float, safety: bool
    ) -> Answer:
        """What becomes of a fallback whose gate is closed."""
        policy = "fail" if KINDS[stage] in FAILS_BY_DEFAULT or safety else "skip"
        policy = run_of(component).get("on_error", policy)
        if policy == "fail":
            return Answer("fail", at, component)
        return self.settled(policy, component, stage, ends, rows, at)

    def settled(self, policy: str, component: Settings, stage: str, ends: float, rows: list[Row], at: float) -> Answer:
        """A component left out, or the answer of its fallback."""
        if policy == "skip":
            return Answer("skipped", at, component)
        name = policy.removeprefix("fallback:")
        (fallback,) = [other for other in self.script["fallbacks"] if other["name"] == name]
        return self.call(fallback, stage, ends, rows, at, stands_in=True)

    def together(self, stage: str, components: Sequence[Settings], ends: float, rows: list[Row]) -> list[Answer]:
        """Call components that start at the same instant; the clock moves on to the last of them."""
        answers = [self.call(component, stage, ends, rows, self.clock) for component in components]
        failures = [answer for answer in answers if answer.status == "fail"]
        if failures:
            first = min(answer.at for answer in failures)
            raise RequestFailedError(first, [a.by["name"] for a in failures if a.at - first < CLOSE])
        self.clock = max([self.clock, *(answer.at for answer in answers)])
        return answers

    def one(self, component: Settings, stage: str, ends: float, rows: list[Row]) -> Answer:
        """Call one component."""
        (answer,) = self.together(stage, [component], ends, rows)
        return answer

    # Stages

    def phases(self, stage: str) -> list[list[Settings]]:
        """The components of a stage in groups that run together."""
        left = self.stage(stage)
        if not self.strict or stage not in CONCURRENT:
            return [left] if left else []
        needs = {c["name"]: self.needs(c, stage) for c in left}
        gives = {c["name"]: set(self.gives(c)) for c in left}
        groups = []
        while left:
            waiting = {c["name"] for c in left}
            ready = [c for c in left if not any(needs[c["name"]] & gives[other] for other in waiting - {c["name"]})]
            assert ready, "a circle"
            groups.append(ready)
            left = [c for c in left if c not in ready]
        return groups

    def fallbacks_of(self, component: Settings) -> list[Settings]:
        """The components that may take over."""
        names = {run_of(component).get(word, "").removeprefix("fallback:") for word in ("on_error", "on_timeout")}
        return [other for other in self.script.get("fallbacks", []) if other["name"] in names]

    def needs(self, component: Settings, stage: str) -> set[str]:
        """All that must be there before a component starts."""
        own = {*reads(component), *run_of(component).get("when", {})}
        own |= set(self.script.get("stages", {}).get(stage, {}).get("when", {}))
        return own.union(*(self.needs(other, stage) for other in self.fallbacks_of(component)))

    def gives(self, component: Settings) -> set[str]:
        """All that a component or a fallback of it may write."""
        return set(writes(component)).union(*(self.gives(other) for other in self.fallbacks_of(component)))

    def hydrate_query(self, stage: str) -> None:
        """The query hydrators of a stage."""
        ends = self.ends(stage, self.clock)
        for phase in self.phases(stage):
            for component, answer in zip(phase, self.together(stage, phase, ends, []), strict=True):
                if answer.status == "ok":
                    self.features.update(answer.value)
                    self.broken -= set(answer.value)
                    if answer.by is not component and self.strict and set(writes(component)) - set(answer.value):
                        raise OpenQuestionError
                elif answer.status == "skipped" and self.strict:
                    self.broken |= {name for name in writes(component) if name not in self.features}

    def fetch(self) -> list[Row]:
        """The sources' rows."""
        sources = self.stage("sources")
        answers = self.together("sources", sources, self.ends("sources", self.clock), [])
        tables = [answer.value if answer.status == "ok" else [] for answer in answers]
        declared = {name for source in sources for name in self.gives(source)}
        if not self.strict:
            return [{**dict.fromkeys(declared), **row} for table in tables for row in table]
        merged: dict[int, Row] = {}
        for table in tables:
            for row in table:
                into = merged.setdefault(row["id"], {"id": row["id"]})
                for name, cell in row.items():
                    if into.get(name) is None:
                        into[name] = cell
        found = {name for table in tables for row in table for name in row}
        answered = {name for answer in answers if answer.status == "ok" for name in writes(answer.by)}
        failing = {
            name
            for source, answer in zip(sources, answers, strict=True)
            if answer.status == "skipped" or answer.by is not source
            for name in writes(source)
        }
        for name in declared - found:
            for row in merged.values():
                row[name] = FAILED if name in failing - answered else None
        return list(merged.values())

    def hydrate(self, stage: str, rows: list[Row]) -> list[Row]:
        """The rows with the columns of a stage's hydrators."""
        ends = self.ends(stage, self.clock)
        for phase in self.phases(stage):
            answers = self.together(stage, phase, ends, rows)
            rows = [dict(row) for row in rows]
            for component, answer in zip(phase, answers, strict=True):
                self.write(component, answer, rows)
        return rows

    def score(self, rows: list[Row]) -> list[Row]:
        """The rows with the columns of the scorers, which run one after another."""
        ends = self.ends("scorers", self.clock)
        for component in self.stage("scorers"):
            answer = self.one(component, "scorers", ends, rows)
            rows = [dict(row) for row in rows]
            self.write(component, answer, rows)
        return rows

    def write(self, component: Settings, answer: Answer, rows: list[Row]) -> None:
        """Write what a hydrator or scorer answered into rows."""
        if answer.status != "ok":
            for row in rows:
                for name in writes(component):
                    new = FAILED if answer.status == "skipped" and self.strict else None
                    row[name] = lay(row.get(name), new)
            return
        by = answer.by
        for at, row in enumerate(rows):
            lost = row["id"] in by.get("failed_rows", [])
            for name in writes(by):
                new = answer.value[name][at] if name in answer.value else None
                if self.strict:
                    if lost and name not in answer.value:
                        raise OpenQuestionError
                    row[name] = lay(row.get(name), FAILED if lost else new)
                elif not lost:
                    row[name] = new

    def filter(self, stage: str, rows: list[Row]) -> list[Row]:
        """The rows that a stage's filters keep."""
        ends = self.ends(stage, self.clock)
        for component in self.stage(stage):
            answer = self.one(component, stage, ends, rows)
            if answer.status != "ok":
                continue
            by = answer.by
            kept = []
            for row, keep in zip(rows, answer.value, strict=True):
                broken = any(row.get(name) == FAILED for name in reads(by))
                if (keep and not broken) or (broken and not run_of(by).get("safety", False)):
                    kept.append(row)
                else:
                    self.dropped.append({"id": row["id"], "by": by["name"]})
            rows = kept
        return rows

    def select(self, rows: list[Row]) -> tuple[list[Row], list[Row]]:
        """The rows that the selector chooses, and the others."""
        (selector,) = self.stage("selector")
        answer = self.one(selector, "selector", self.ends("selector", self.clock), rows)
        if answer.status == "closed":
            return rows, []
        chosen: list[int] = answer.value["chosen"]
        order = answer.value["order"]
        rest = sorted(set(order) - set(chosen)) if self.strict else [at for at in order if at not in chosen]
        return [rows[at] for at in chosen], [rows[at] for at in rest]

    def refill(self, survivors: list[Row], rest: list[Row], first: int) -> tuple[list[Row], list[Row]]:
        """Replace rows that were dropped after selection, from the rest."""
        target = min(first, self.script.get("result_size", first))
        rounds = 0
        while len(survivors) < target and rounds < self.script.get("max_refills", 3) and rest:
            rounds += 1
            missing = target - len(survivors)
            chosen, _ = self.select(rest)
            chosen = chosen[: 2 * missing]
            rest = [row for row in rest if not any(row is other for other in chosen)]
            chosen = self.hydrate("post_selection_hydrators", chosen)
            survivors = self.filter("post_selection_filters", survivors + chosen)
        return survivors, rest


def expected(script: Settings) -> dict[str, Plain]:
    """What must come out of a script.

    Raises:
        OpenQuestionError: The rules do not say.
    """
    return Model(script).run()
