"""From a TOML document to a `FileSpec`, all mistakes at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from candidate_pipeline.errors import MisconfigurationError
from candidate_pipeline.keys import Column, Key, QueryFeature
from candidate_pipeline.options import options_of
from candidate_pipeline.plugin import KINDS, Kind
from candidate_pipeline.registry import ComponentRef, Registry
from candidate_pipeline.spec.convert import Converter
from candidate_pipeline.spec.dataset import apply_dataset, apply_sets, default_data_dir
from candidate_pipeline.spec.document import Document, describe
from candidate_pipeline.spec.model import (
    STAGES,
    ComponentSpec,
    Dataset,
    FileSpec,
    PipelineOptions,
    PipelineSpec,
    RunPolicy,
    Stage,
)
from candidate_pipeline.spec.positions import TomlPath
from candidate_pipeline.spec.problems import SpecError, nearest
from candidate_pipeline.spec.references import resource_problems

SCHEMA: Final = 1
FALLBACK: Final = "fallback:"
#: Names that `run` takes itself.
RESERVED_INPUTS: Final = frozenset({"now", "seed", "request_id"})
_LOCAL_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
_TOP: Final = ("schema", "pipelines", "components", "resources")


def load_spec(
    document: Document,
    registry: Registry,
    *,
    data: Path | None = None,
    sets: Sequence[str] = (),
) -> FileSpec:
    """Check a document and resolve its names.

    Args:
        document: The TOML; overridden in place by `dataset.toml` and `sets`.
        registry: Where names resolve.
        data: The data directory; default: what the spec's first data resource reads.
        sets: Overrides, `a.b=value` each.

    Raises:
        SpecError: The spec has mistakes.
    """
    dataset: Dataset | None = None
    directory = data if data is not None else default_data_dir(document, registry)
    if directory is not None:
        dataset = apply_dataset(document, directory, required=data is not None)
    apply_sets(document, sets)
    return _Loader(document, registry, data, dataset).load()


@attrs.define
class _Loader:
    document: Document
    registry: Registry
    data: Path | None
    dataset: Dataset | None
    converter: Converter = attrs.field(init=False)
    components: dict[str, Any] = attrs.field(init=False)
    seen: dict[tuple[Kind, str], ComponentSpec | None] = attrs.field(factory=dict)
    classes: dict[str, type | None] = attrs.field(factory=dict)

    def load(self) -> FileSpec:
        self.converter = Converter(self.document, {}, self.data)
        top = self.document.data
        for key in top:
            if key not in _TOP:
                self._report("E101", f"unknown key {key!r}", (key,), hint=nearest(key, _TOP), part="key")
        self._check_schema(top)
        resource_tables = self._tables("resources")
        self.components = self._tables("components")
        self.converter.resources = {name: self._resource_class(table) for name, table in resource_tables.items()}
        resources = {}
        for name in resource_tables:
            spec = self._configured("resource", name, ("resources", name), ("resources", name))
            if spec is not None:
                resources[name] = spec
        pipelines = {name: self._pipeline(name, table) for name, table in self._tables("pipelines").items()}
        if not pipelines and "pipelines" not in top:
            self._report("E103", "the spec has no pipeline", (), hint="add a table [pipelines.<name>]")
        self._unused_components()
        used = [*resources.values(), *(spec for spec in self.seen.values() if spec is not None)]
        self.converter.problems += resource_problems(self.document, used, resources)
        if self.converter.problems:
            raise SpecError(self.converter.problems)
        return FileSpec(self.document, pipelines, resources, self.dataset)

    def _report(self, code: str, message: str, path: TomlPath, *, hint: str = "", part: str = "value") -> None:
        self.converter.report(code, message, path, hint=hint, part=part)

    def _check_schema(self, top: Mapping[str, Any]) -> None:
        if "schema" not in top:
            self._report("E103", "the spec needs the key 'schema', found none", (), hint=f"add schema = {SCHEMA}")
        elif type(top["schema"]) is not int:
            self._report("E102", f"schema: wanted the integer {SCHEMA}, found {describe(top['schema'])}", ("schema",))
        elif top["schema"] != SCHEMA:
            self._report("E106", f"schema: wanted {SCHEMA}, found {top['schema']}", ("schema",))

    def _tables(self, key: str) -> dict[str, Any]:
        """The named tables under a top-level key; others are reported and left out."""
        tables = self.document.data.get(key, {})
        if not isinstance(tables, dict):
            self._report("E102", f"{key}: wanted a table, found {describe(tables)}", (key,))
            return {}
        good = {}
        for name, table in tables.items():
            if not isinstance(table, dict):
                self._report("E102", f"wanted a table [{key}.{name}], found {describe(table)}", (key, name))
            elif not _LOCAL_NAME.fullmatch(name):
                hint = "a name is lower-case letters, digits and underscores; dots mark registered names"
                self._report("E105", f"{name!r} is not a name for [{key}.*]", (key, name), hint=hint, part="key")
            else:
                good[name] = table
        return good

    def _pipeline(self, name: str, table: Mapping[str, Any]) -> PipelineSpec:
        path: TomlPath = ("pipelines", name)
        plain = {key: value for key, value in table.items() if key not in STAGES}
        allowed = options_of(PipelineOptions)
        for key in [key for key in plain if key not in allowed]:
            hint = nearest(key, [*allowed, *STAGES])
            self._report("E101", f"unknown key {key!r} in [pipelines.{name}]", (*path, key), hint=hint, part="key")
            del plain[key]
        options = PipelineOptions(**self.converter.table(plain, allowed, path, f"[pipelines.{name}]"))
        fallbacks: dict[str, ComponentSpec] = {}
        stages = {}
        for stage, kind in STAGES.items():
            specs = self._stage(stage, kind, table, path)
            stages[stage] = specs
            for spec in specs:
                self._fallbacks(spec, fallbacks)
        for needed in ("sources", "selector"):
            if needed not in table:
                self._report("E103", f"[pipelines.{name}] needs the key {needed!r}", path, part="key")
        inputs = {}
        for parameter, key_name in options.inputs.items():
            if parameter in RESERVED_INPUTS:
                self._report(
                    "E105",
                    f"{parameter!r} is not a name for an input: every request has it",
                    (*path, "inputs", parameter),
                    part="key",
                )
            feature = self._key(key_name, (*path, "inputs", parameter), QueryFeature)
            if isinstance(feature, QueryFeature):
                inputs[parameter] = feature
        show = [self._key(shown, (*path, "show", at), Column) for at, shown in enumerate(options.show)]
        return PipelineSpec(
            name, options, inputs, tuple(key for key in show if key is not None), stages, fallbacks, path
        )

    def _stage(self, stage: Stage, kind: Kind, table: Mapping[str, Any], path: TomlPath) -> tuple[ComponentSpec, ...]:
        value = table.get(stage, [])
        if stage == "selector":
            value = [value] if isinstance(value, str) else value
            if stage in table and not isinstance(table[stage], str):
                self._report("E102", f"selector: wanted a string, found {describe(table[stage])}", (*path, stage))
                return ()
        if not isinstance(value, list):
            self._report("E102", f"{stage}: wanted a list of strings, found {describe(value)}", (*path, stage))
            return ()
        specs: list[ComponentSpec] = []
        names: set[str] = set()
        for at, entry in enumerate(value):
            place: TomlPath = (*path, stage) if stage == "selector" else (*path, stage, at)
            if not isinstance(entry, str):
                self._report("E102", f"wanted a string, found {describe(entry)}", place)
                continue
            if entry in names:
                hint = "give one of them a name of its own: [components.<name>] with use = ..."
                self._report("E308", f"{entry!r} stands twice in {stage}", place, hint=hint)
                continue
            names.add(entry)
            spec = self._entry(kind, entry, place)
            if spec is not None:
                specs.append(spec)
        return tuple(specs)

    def _entry(self, kind: Kind, entry: str, place: TomlPath) -> ComponentSpec | None:
        """What a list entry means: a `[components.*]` name, or a registered name used with its defaults."""
        if (kind, entry) in self.seen:
            return self.seen[kind, entry]
        spec: ComponentSpec | None
        if entry in self.components:
            spec = self._configured(kind, entry, ("components", entry), place)
        elif "." in entry:
            spec = self._registered(kind, entry, entry, {}, RunPolicy(), place, place, place)
        else:
            names = [*self.components, *(ref.name for ref in self.registry.components(kind))]
            hint = nearest(entry, names) or f"add a table [components.{entry}]"
            self._report("E200", f"no {_words(kind)} named {entry!r}", place, hint=hint)
            spec = None
        self.seen[kind, entry] = spec
        return spec

    def _configured(self, kind: Kind, name: str, path: TomlPath, place: TomlPath) -> ComponentSpec | None:
        table = dict(self.document.get(path))
        use, run_table = table.pop("use", None), table.pop("run", {})
        if not isinstance(use, str):
            if use is None:
                self._report("E103", f"[{path[0]}.{name}] needs the key 'use'", path, part="key")
            else:
                self._report("E102", f"use: wanted a string, found {describe(use)}", (*path, "use"))
            return None
        run = RunPolicy()
        if kind == "resource" and run_table:
            self._report("E101", "a resource takes no 'run'", (*path, "run"), part="key")
        elif not isinstance(run_table, dict):
            self._report("E102", f"run: wanted a table, found {describe(run_table)}", (*path, "run"))
        else:
            run = RunPolicy(**self.converter.table(run_table, options_of(RunPolicy), (*path, "run"), "run"))
        return self._registered(kind, name, use, table, run, path, (*path, "use"), place)

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
        ref = self._find(kind, use, use_path)
        if ref is None:
            return None
        cls = self._class(ref, use_path)
        if cls is None:
            return None
        values = self.converter.table(given, options_of(cls), path, use)
        return ComponentSpec(name, kind, ref, cls, values, run, path, place)

    def _find(self, kind: Kind, use: str, path: TomlPath) -> ComponentRef | None:
        ref = self.registry.find(kind, use)
        if ref is not None:
            return ref
        broken = self.registry.broken_for(use)
        others = self.registry.kinds_of(use)
        if others:
            self._report("E202", f"{use!r} is a {_words(others[0])}, wanted a {_words(kind)}", path)
        elif broken is not None:
            what = f"{broken.distribution} {broken.version} could not be loaded: {broken.cause}"
            self._report("E201", f"no {_words(kind)} named {use!r}", path, hint=what)
        else:
            hint = nearest(use, (ref.name for ref in self.registry.components(kind)))
            hint = hint or "install the plugin that offers it; `candidate-pipeline components` lists what there is"
            self._report("E200", f"no {_words(kind)} named {use!r}", path, hint=hint)
        return None

    def _class(self, ref: ComponentRef, path: TomlPath) -> type | None:
        key = f"{ref.kind} {ref.name}"
        if key not in self.classes:
            self.classes[key] = None
            try:
                cls = ref.load()
                options_of(cls)
            except MisconfigurationError as error:
                self._report("E201", str(error), path)
            except Exception as error:  # an annotation that does not resolve may raise anything
                self._report("E203", f"{ref.name}: {error}", path)
            else:
                self.classes[key] = cls
        return self.classes[key]

    def _resource_class(self, table: Mapping[str, Any]) -> type | None:
        """The class of a resource, or `None` where that fails; `_configured` reports why."""
        ref = self.registry.find("resource", str(table.get("use", "")))
        try:
            return None if ref is None else ref.load()
        except MisconfigurationError:
            return None

    def _fallbacks(self, spec: ComponentSpec, found: dict[str, ComponentSpec]) -> None:
        """Resolve the chain of fallbacks that starts at a component."""
        chain = [spec.name]
        while spec.run.on_error is not None and spec.run.on_error.startswith(FALLBACK):
            name = spec.run.on_error.removeprefix(FALLBACK)
            path = (*spec.path, "run", "on_error")
            if name in chain:
                self._report("E307", f"the fallback leads back to {name!r}: {' -> '.join([*chain, name])}", path)
                return
            chain.append(name)
            target = self._entry(spec.kind, name, path)
            if target is None:
                return
            found[name] = spec = target

    def _key(self, name: str, path: TomlPath, wanted: type[QueryFeature[Any]] | type[Column[Any]]) -> Key | None:
        keys = self.registry.keys()
        key = keys.get(name)
        what = "query feature" if wanted is QueryFeature else "column"
        if isinstance(key, wanted):
            return key
        hint = nearest(name, (other.name for other in keys.values() if isinstance(other, wanted)))
        self._report("E205", f"no {what} named {name!r}", path, hint=hint)
        return None

    def _unused_components(self) -> None:
        """Check components that no pipeline uses as well, under the first kind that offers their name."""
        used = {name for _, name in self.seen}
        for name, table in self.components.items():
            if name in used:
                continue
            use = table.get("use")
            kinds = self.registry.kinds_of(use) if isinstance(use, str) else []
            self._configured(kinds[0] if kinds else KINDS[0], name, ("components", name), ("components", name))


def _words(kind: str) -> str:
    return kind.replace("_", " ")
