"""Resolving what list entries and tables name: registered components, their classes and their options."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any, Final

import attrs

from candidate_pipeline.errors import MisconfigurationError
from candidate_pipeline.options import options_of
from candidate_pipeline.plugin import Kind
from candidate_pipeline.registry import ComponentRef, Registry
from candidate_pipeline.spec.convert import Converter
from candidate_pipeline.spec.document import Document, describe
from candidate_pipeline.spec.model import ComponentSpec, NestedOptions, RunPolicy
from candidate_pipeline.spec.positions import TomlPath
from candidate_pipeline.spec.problems import nearest

#: What `use` says of a source that is a pipeline of the same spec.
NESTED: Final = "pipeline"


@attrs.define(eq=False)
class Entries:
    """Resolves the names of one document.

    Args:
        document: The document.
        registry: Where registered names resolve.
        converter: Converts options and collects problems.
        components: The tables under `[components]`.
        seen: What entries resolved to, by kind and name; `None` where that failed.
    """

    document: Document
    registry: Registry
    converter: Converter
    components: Mapping[str, Any]
    seen: dict[tuple[Kind, str], ComponentSpec | None] = attrs.field(factory=dict)
    _classes: dict[str, type | None] = attrs.field(factory=dict)

    def entry(self, kind: Kind, entry: str, place: TomlPath) -> ComponentSpec | None:
        """What a list entry means: a `[components.*]` name, or a registered name used with its defaults."""
        if (kind, entry) in self.seen:
            spec = self.seen[kind, entry]
            return None if spec is None else attrs.evolve(spec, place=place)
        tables = self.document.data.get("components", {})
        reported = isinstance(tables, dict) and entry in tables  # if it is not among those that are well formed
        if entry in self.components:
            spec = self.configured(kind, entry, ("components", entry), place)
        elif "." in entry and not reported:
            spec = self._registered(kind, entry, entry, {}, RunPolicy(), place, place, place)
        else:
            names = [*self.components, *(ref.name for ref in self.registry.components(kind))]
            hint = nearest(entry, names) or f"add a table [components.{entry}]"
            if not self.document.incomplete and self.document.lacks("components", entry):  # else the base may have it
                self._report("E200", f"no {words(kind)} named {entry!r}", place, hint=hint)
            spec = None
        self.seen[kind, entry] = spec
        return spec

    def configured(self, kind: Kind, name: str, path: TomlPath, place: TomlPath) -> ComponentSpec | None:
        """What a table under `[components]` or `[resources]` describes."""
        before = len(self.converter.problems)
        table = dict(self.document.get(path))
        use, run_table = table.pop("use", None), table.pop("run", {})
        if not isinstance(use, str):
            if use is None:
                self._report("E103", f"[{path[0]}.{name}] needs the key 'use'", path, part="key")
            else:
                self._report("E102", f"use: wanted a string, found {describe(use)}", (*path, "use"))
            return None
        run = RunPolicy()
        if kind == "resource" and "run" in self.document.get(path):
            self._report("E101", "a resource takes no 'run'", (*path, "run"), part="key")
        elif not isinstance(run_table, dict):
            self._report("E102", f"run: wanted a table, found {describe(run_table)}", (*path, "run"))
        else:
            run = RunPolicy(**self.converter.table(run_table, options_of(RunPolicy), (*path, "run"), "run"))
        spec = self._registered(kind, name, use, table, run, path, (*path, "use"), place)
        sound = len(self.converter.problems) == before
        return None if spec is None else attrs.evolve(spec, sound=spec.sound and sound)

    def resource_class(self, table: Mapping[str, Any]) -> type | None:
        """The class of a resource, or `None` where that fails; `configured` reports why."""
        ref = self.registry.find("resource", str(table.get("use", "")))
        try:
            return None if ref is None else ref.load()
        except MisconfigurationError:
            return None

    def unused(self) -> None:
        """Check components that nothing uses as well, under the first kind that offers their name."""
        used = {name for _, name in self.seen}
        for name, table in self.components.items():
            if name in used:
                continue
            path: TomlPath = ("components", name)
            use = table.get("use")
            if use == NESTED:
                self._unused_nested(name, path)
                continue
            kinds: list[Kind] = [kind for kind in self.registry.kinds_of(str(use)) if kind != "resource"]
            if kinds or not isinstance(use, str):
                self.configured(kinds[0] if kinds else "source", name, path, path)
            else:
                self._no_component(None, use, (*path, "use"))

    def _unused_nested(self, name: str, path: TomlPath) -> None:
        spec = self.configured("source", name, path, path)
        inner = None if spec is None else spec.options.get("pipeline")
        pipelines = self.document.data.get("pipelines", {})
        if inner is not None and isinstance(pipelines, dict) and inner not in pipelines:
            self._report("E310", f"no pipeline {inner!r}", (*path, "pipeline"), hint=nearest(inner, pipelines))

    def _registered(
        self,
        kind: Kind,
        name: str,
        use: str,
        given: Mapping[str, Any],
        run: RunPolicy,
        path: TomlPath,
        use_path: TomlPath,
        place: TomlPath,
    ) -> ComponentSpec | None:
        ref = self.registry.find(kind, use)
        if use == NESTED and path[0] == "components":
            ref = nested_ref()
            if kind != "source":
                self._report("E202", f"{use!r} is a source, wanted a {words(kind)}", place)
                return None
        if ref is None:
            # A component of another kind is right where it is configured and wrong where it is listed.
            misplaced = path[0] == "components" and self.registry.kinds_of(use)
            self._no_component(kind, use, place if misplaced else use_path)
            return None
        cls = self._class(ref, use_path)
        if cls is None:
            return None
        before, options = len(self.converter.problems), options_of(cls)
        values = self.converter.table(given, options, path, use)
        complete = all(option.name in values for option in options.values() if option.required)
        sound = complete and len(self.converter.problems) == before
        return ComponentSpec(name, kind, ref, cls, values, run, path, place, sound)

    def _no_component(self, kind: Kind | None, use: str, path: TomlPath) -> None:
        what = "component" if kind is None else words(kind)
        broken = self.registry.broken_for(use)
        others = self.registry.kinds_of(use)
        if others:
            self._report("E202", f"{use!r} is a {words(others[0])}, wanted a {what}", path)
        elif broken is not None:
            cause = f"{broken.distribution} {broken.version} could not be loaded: {broken.cause}"
            self._report("E201", f"no {what} named {use!r}", path, hint=cause)
        else:
            offered = self.registry.components(kind)
            hint = nearest(use, (ref.name for ref in offered if kind is not None or ref.kind != "resource"))
            hint = hint or "install the plugin that offers it; `candidate-pipeline components` lists what there is"
            self._report("E200", f"no {what} named {use!r}", path, hint=hint)

    def _class(self, ref: ComponentRef, path: TomlPath) -> type | None:
        key = f"{ref.kind} {ref.name}"
        if key not in self._classes:
            self._classes[key] = None
            try:
                cls = ref.load()
                options_of(cls)
            except MisconfigurationError as error:
                self._report("E201", str(error), path)
                return None
            except Exception as error:  # an annotation that does not resolve may raise anything
                self._report("E203", f"{ref.name}: {error}", path)
                return None
            lacking = [name for name in ("open", "close") if not callable(getattr(cls, name, None))]
            if ref.kind == "resource" and lacking:
                self._report(
                    "E203", f"{ref.name}: a resource has a method {lacking[0]}(); {cls.__name__} has none", path
                )
            else:
                self._classes[key] = cls
        return self._classes[key]

    def _report(self, code: str, message: str, path: TomlPath, *, hint: str = "", part: str = "") -> None:
        self.converter.report(code, message, path, hint=hint, part=part)


def nested_ref() -> ComponentRef:
    """The source that every spec can use: another of its pipelines."""
    return ComponentRef("source", NESTED, NestedOptions, "candidate-pipeline", metadata.version("candidate-pipeline"))


def words(kind: str) -> str:
    """A kind as a sentence says it."""
    return kind.replace("_", " ")
