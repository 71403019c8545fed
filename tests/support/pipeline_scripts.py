"""Random scripts (see `candidate_pipeline.testing.scripted`) whose wiring is valid."""

from __future__ import annotations

import math
from typing import Any

import attrs
from hypothesis import strategies as st
from pipeline_model import KINDS, Model
from pipeline_model_answers import Plain, reads, writes

Script = dict[str, Plain]

FLOATS = ("c1", "c2", "c3", "c4")
INTEGERS = ("c7", "c8")
#: Delays are even; limits end on other fractions of a millisecond, so that hardly anything is due at the same instant.
DELAYS = (2, 6, 10, 14, 20, 30)
TIMEOUTS = (4.25, 8.25, 12.25, 22.25)
BUDGETS = (12.5, 22.5, 24.5, 34.5)
DEADLINES = (25.125, 47.125, 81.125, 161.125)
TIMED = ("query_hydrators", "dependent_query_hydrators", "sources", "hydrators", "scorers", "post_selection_hydrators")
FAULTS = {
    "query_hydrator": ("raise", "wrong_dtype", "wrong_type", "undeclared", "cancelled"),
    "source": ("raise", "wrong_length", "wrong_dtype", "wrong_type", "undeclared", "cancelled"),
    "hydrator": ("raise", "wrong_length", "wrong_dtype", "wrong_type", "undeclared", "mutate", "cancelled"),
    "scorer": ("raise", "wrong_length", "wrong_dtype", "wrong_type", "undeclared", "mutate", "cancelled"),
    "filter": ("raise", "wrong_length", "wrong_dtype", "wrong_type", "mutate"),
    "selector": ("raise", "wrong_length", "wrong_dtype", "wrong_type"),
    "side_effect": ("raise",),
}
#: Once in so many times a component of the kind has a fault. What ends the request is rarer.
RARITY = {
    "query_hydrator": 4,
    "source": 6,
    "hydrator": 3,
    "scorer": 6,
    "filter": 5,
    "selector": 10,
    "side_effect": 3,
}


@attrs.define
class Builder:
    """Draws a script whose wiring is valid.

    Args:
        draw: Hypothesis's draw.
        semantics: The semantics.
        script: The script so far.
        features: Query features there are.
        columns: Columns there are.
        calm: Whether nothing fails, so that more requests come to their end.
    """

    draw: Any
    semantics: str
    script: Script = attrs.field(factory=dict)
    features: list[str] = attrs.field(factory=list)
    columns: list[str] = attrs.field(factory=list)
    calm: bool = False

    @property
    def strict(self) -> bool:
        return self.semantics == "strict"

    def pick(self, options: Any) -> Plain:
        return self.draw(st.sampled_from(list(options)))

    def maybe(self, of: int = 2) -> bool:
        """True once in so many times."""
        return bool(self.pick(range(of)) == of - 1)

    def several(self, options: Any, least: int = 0, most: int = 2) -> list[Plain]:
        known = list(dict.fromkeys(options))
        wanted = st.lists(st.sampled_from(known), min_size=min(least, len(known)), max_size=most, unique=True)
        return list(self.draw(wanted)) if known else []

    # Settings

    def build(self) -> Script:
        self.calm = self.maybe(4)
        script = self.script = {"semantics": self.semantics, "inputs": {"q1": self.pick(range(3))}}
        if self.maybe():
            script["inputs"]["q2"] = self.pick(range(3))
        self.features = list(script["inputs"])
        if self.maybe():
            script["result_size"] = self.pick(range(1, 5))
        if self.maybe(4):
            script["deadline_ms"] = self.pick(DEADLINES)
        if self.strict and self.maybe():
            script["max_refills"] = self.pick(range(4))
        for stage in self.several(TIMED):
            self.stage_options(stage)
        script["query_hydrators"] = self.stage("query_hydrators", "qh")
        if not self.strict:
            script["dependent_query_hydrators"] = self.stage("dependent_query_hydrators", "dq")
        script["sources"] = [self.source(f"src{at}") for at in range(self.pick([1, 2, 2, 3]))]
        declared = [name for source in self.members("sources") for name in writes(source)]
        self.columns = list(dict.fromkeys(["id", *declared]))
        script["hydrators"] = self.stage("hydrators", "hyd")
        script["filters"] = [self.filter(f"fil{at}", "filters") for at in range(self.pick([0, 1, 2]))]
        script["scorers"] = [self.scorer(f"sco{at}") for at in range(self.pick([0, 1, 1, 2]))]
        script["selector"] = self.selector()
        script["post_selection_hydrators"] = self.stage("post_selection_hydrators", "psh")
        count = self.pick([1, 2] if self.calm else [0, 1, 2])
        script["post_selection_filters"] = [self.filter(f"psf{at}", "post_selection_filters") for at in range(count)]
        script["side_effects"] = [self.side_effect(f"eff{at}") for at in range(self.pick([0, 0, 1, 2]))]
        return script

    def members(self, stage: str) -> list[Script]:
        """A stage's components and their fallbacks."""
        listed = list(self.script[stage])
        for component in listed:
            listed += Model(self.script).fallbacks_of(component)
        return listed

    def stage_options(self, stage: str) -> None:
        options: Script = {}
        deadline = self.script.get("deadline_ms")
        budgets = [budget for budget in BUDGETS if deadline is None or budget < deadline]
        if self.maybe():
            options["timeout_ms"] = self.pick(budgets)
        if deadline is not None and self.maybe():
            options["reserve_ms"] = self.pick([2, 10])
        if stage not in {"query_hydrators", "dependent_query_hydrators"} and self.maybe(4):
            options["when"] = self.when(["q1"])
        self.script.setdefault("stages", {})[stage] = options

    def when(self, features: list[str]) -> Script:
        known = [name for name in features if name not in {"q7", "q8", "q9"}]
        condition = st.one_of(
            st.integers(0, 2),
            st.fixed_dictionaries({"min": st.integers(0, 2)}),
            st.fixed_dictionaries({"not": st.integers(0, 2), "max": st.integers(1, 3)}),
            st.fixed_dictionaries({"in": st.lists(st.integers(0, 3), min_size=1, max_size=3)}),
            st.fixed_dictionaries({"present": st.booleans()}),
        )
        return {name: self.draw(condition) for name in self.several(known, 1, 2)}

    def component(
        self, name: str, kind: str, stage: str, gates: list[str], depth: int = 0, safety: bool = False
    ) -> Script:
        """What components of all kinds have: delays, faults, policies, gates."""
        found: Script = {"name": name}
        run: Script = {}
        plain = kind in {"filter", "selector"} or self.maybe()
        if not plain:
            found["delay_ms"] = self.pick(DELAYS)
            limits = [self.script.get("deadline_ms", math.inf), self.budget(stage)]
            if self.maybe():
                run["timeout_ms"] = self.pick([limit for limit in TIMEOUTS if limit <= min(limits)])
        elif kind not in {"filter", "selector"}:
            found["plain"] = True
        if not self.calm and self.maybe(RARITY[kind]):
            cut = ("hang",) if kind == "side_effect" else ("hang", "swallow")
            found["fault"] = self.pick([*FAULTS[kind], *(cut if "timeout_ms" in run else ())])
            if kind != "side_effect" and self.maybe(20):
                found["fault"] = self.pick(["request_error", "misconfigured"])
        if safety:
            run["safety"] = True
        closed = self.strict and (kind == "selector" or safety)
        if gates and not closed and depth == 0 and self.maybe(5):
            run["when"] = self.when(gates)
        if self.strict and kind != "side_effect":
            for word in ("on_error", *(() if plain else ("on_timeout",))):
                if self.maybe():
                    policies = ["fail"] if closed else ["skip", "skip", "skip", "fail"]
                    run[word] = self.pick(policies if depth == 2 else [*policies, *["fallback"] * len(policies)])
        if run:
            found["run"] = run
        return found

    def budget(self, stage: str) -> float:
        found: float = self.script.get("stages", {}).get(stage, {}).get("timeout_ms", math.inf)
        return found

    def with_fallbacks(self, component: Script, make: Any, depth: int = 0) -> Script:
        """A component whose fallbacks exist: `make(name, depth)` makes one."""
        run = component.get("run", {})
        for word in ("on_error", "on_timeout"):
            if run.get(word) == "fallback":
                name = f"{component['name']}_{'e' if word == 'on_error' else 't'}"
                run[word] = f"fallback:{name}"
                self.script.setdefault("fallbacks", []).append(make(name, depth + 1))
        return component

    # Stages whose components run together

    def stage(self, stage: str, prefix: str) -> list[Script]:
        """Hydrators or query hydrators; a component depends on those made before it only, then all are shuffled."""
        kind = KINDS[stage]
        query = kind == "query_hydrator"
        keys = [f"q{n}" for n in range(1, 9)] if query else [*FLOATS, *INTEGERS, "score"]
        before = list(self.features if query else self.columns)
        written: list[str] = []
        read: set[str] = set()
        made = []
        for at in range(self.pick([0, 1, 2, 3])):
            ready = before if not self.strict else list(dict.fromkeys([*before, *written]))
            known = list(ready if query else [*ready, *self.features])
            gates = (ready if self.strict else before) if query else self.features
            fresh = [key for key in keys if not self.strict or (key not in written and key not in read)]
            if not fresh:
                break
            writes = self.several(fresh, 1, 2)
            # Rewriting what another of the stage wrote needs reading it, and that nobody else has read it.
            again = [key for key in written if self.strict and key not in read and key not in writes]
            rewrites = self.several(again, 1, 1) if again and self.maybe(4) else []
            own = [key for key in known if key not in writes]
            unit: list[Script] = []

            def make(name: str, depth: int = 0) -> Script:
                component = self.component(name, kind, stage, gates, depth)  # noqa: B023 - called in this round only
                if depth:
                    component["kind"] = kind
                self.sets(component, [*writes, *rewrites], own, query)  # noqa: B023 - called in this round only
                if rewrites:  # noqa: B023 - called in this round only
                    component["reads"] = list(rewrites)  # noqa: B023 - called in this round only
                unit.append(component)  # noqa: B023 - called in this round only
                return self.with_fallbacks(component, make, depth)

            made.append(make(f"{prefix}{at}"))
            written += writes
            for component in unit:
                read |= {*reads(component), *component.get("run", {}).get("when", {})}
        where = self.features if query else self.columns
        where += [key for key in written if key not in where]
        return list(self.draw(st.permutations(made)))

    def sets(self, component: Script, writes: list[str], known: list[str], query: bool) -> None:
        """What a component writes."""
        faulty = "fault" in component
        component["set"] = {name: self.rule(name, known, query, faulty) for name in writes}
        if query:
            return
        if self.maybe(3):
            component["failed_rows"] = self.several(range(1, 7), 1, 3)
        elif not faulty and not component.get("kind") and len(writes) > 1 and self.maybe(3):
            component["writes"] = [writes[0]]
            del component["set"][writes[0]]

    def rule(self, name: str, known: list[str], query: bool, faulty: bool) -> Plain:
        whole = name in {*INTEGERS, *(f"q{n}" for n in range(1, 10))}
        origins = [key for key in known if not whole or key[0] == "q" or key in {*INTEGERS, "id"}]
        if origins and self.maybe():
            rule: Script = {"from": self.pick(origins)}
            if self.maybe():
                rule["add"] = self.pick([-1, 1, 2] if whole else [-1, 0.5, 2])
            if self.maybe(3):
                rule["mul"] = self.pick([-1, 2] if whole else [-1, 0.5, 2])
            return rule
        if query:
            return self.pick([0, 1, 2] if faulty or not self.maybe(4) else [None])
        ids = self.several(range(1, 7), 0, 6)
        return self.pick([self.cell(name), {"cells": {str(item): self.cell(name) for item in ids}}])

    def cell(self, name: str) -> Plain:
        if name in INTEGERS:
            return self.pick([None, 0, 1, 2])
        odd = ["NaN", "inf", "-inf"] if self.strict else ["inf", "-inf"]
        return self.pick([None, -1.5, 0.5, 1.0, 2.5, 3.0, *(odd if self.maybe(3) else [])])

    # The others

    def source(self, name: str) -> Script:
        columns = self.several([*FLOATS[:2], "c7"], 0, 2)

        def make(name: str, depth: int = 0) -> Script:
            source = self.component(name, "source", "sources", self.features, depth)
            if depth:
                source["kind"] = "source"
            if self.features and self.maybe(4):
                source["reads"] = self.several(self.features, 1, 1)
            ids = self.draw(st.lists(st.integers(1, 6), min_size=self.pick([0, 2, 3, 4]), max_size=6))
            given = [column for column in columns if not self.maybe(4)]
            source["rows"] = [{"id": item, **{c: self.cell(c) for c in given}} for item in ids]
            source["writes"] = columns
            return self.with_fallbacks(source, make, depth)

        return make(name)

    def filter(self, name: str, stage: str) -> Script:
        safety = self.maybe(3)

        def make(name: str, depth: int = 0) -> Script:
            found = self.component(name, "filter", stage, self.features, depth, safety)
            if depth:
                found["kind"] = "filter"
            found["keep"] = self.keep()
            return self.with_fallbacks(found, make, depth)

        return make(name)

    def keep(self) -> Plain:
        column = self.pick(self.columns)
        if self.maybe(4):
            return {"first_per": column}
        value = {"from": self.pick(self.features)} if self.maybe(4) else self.pick([0, 1, 2, 3])
        op = self.pick(["<", "<=", ">", ">=", "==", "!=", "!=", "!=", "!="])
        return {"column": column, "op": op, "value": value, "null": self.pick(["keep", "keep", "drop"])}

    def scorer(self, name: str) -> Script:
        writes = ["score", *self.several(FLOATS[2:], 0, 1)]
        known = [*self.columns, *self.features]

        def make(name: str, depth: int = 0) -> Script:
            found = self.component(name, "scorer", "scorers", self.features, depth)
            if depth:
                found["kind"] = "scorer"
            self.sets(found, writes, known, query=False)
            return self.with_fallbacks(found, make, depth)

        made = make(name)
        self.columns += [column for column in writes if column not in self.columns]
        return made

    def selector(self) -> Script:
        def make(name: str, depth: int = 0) -> Script:
            found = self.component(name, "selector", "selector", self.features, depth)
            if depth:
                found["kind"] = "selector"
            found["size"] = self.pick([1, 2, 3] if self.calm else [None, 1, 2, 3, 4])
            return self.with_fallbacks(found, make, depth)

        return make("top")

    def side_effect(self, name: str) -> Script:
        found = self.component(name, "side_effect", "side_effects", self.features)
        run = found.setdefault("run", {})
        run["retries"] = self.pick([0, 1, 2])
        return found


@st.composite
def scripts(draw: Any, semantics: str) -> Script:
    """Scripts whose wiring is valid."""
    return Builder(draw, semantics).build()
