"""From a TOML document to a `FileSpec`, all mistakes at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from candidate_pipeline.keys import Column, Key, QueryFeature
from candidate_pipeline.options import options_of
from candidate_pipeline.plugin import Kind
from candidate_pipeline.registry import Registry
from candidate_pipeline.spec.convert import Converter
from candidate_pipeline.spec.dataset import apply_dataset, apply_sets, default_data_dir
from candidate_pipeline.spec.document import SCHEMA, Document, describe
from candidate_pipeline.spec.entries import Entries
from candidate_pipeline.spec.extends import extended, unresolved
from candidate_pipeline.spec.merging import KEY, is_special
from candidate_pipeline.spec.model import (
    FALLBACK,
    STAGES,
    ComponentSpec,
    Dataset,
    FileSpec,
    PipelineOptions,
    PipelineSpec,
    Stage,
)
from candidate_pipeline.spec.positions import TomlPath
from candidate_pipeline.spec.problems import Problem, nearest
from candidate_pipeline.spec.references import resource_problems

#: Names that `Pipeline.run` or the command `run` takes itself.
RESERVED_INPUTS: Final = frozenset(
    {"config", "data", "explain", "format", "help", "limit", "now", "repeat", "request_id", "seed", "set", "trace"}
)
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
        document: The TOML.
        registry: Where names resolve.
        data: The data directory; default: what the spec's first data resource reads.
        sets: Overrides, `a.b=value` each; they win over those of the data directory.

    Returns:
        The spec with its `problems`, so that building it can find the rest of them.
    """
    problems: list[Problem] = []
    whole = extended(document, problems)
    asked = whole.copy()
    apply_sets(asked, sets)
    directory = data if data is not None else default_data_dir(asked, registry)
    dataset: Dataset | None = None
    overridden = whole.copy()
    if directory is not None:
        dataset = apply_dataset(overridden, directory, problems, required=data is not None)
    problems += apply_sets(overridden, sets)
    return _Loader(overridden, registry, data, dataset, problems).load()


def resolve_names(document: Document, registry: Registry) -> FileSpec:
    """Check a document whose bases are merged and whose overrides are applied."""
    return _Loader(document, registry, None, None, []).load()


@attrs.define(eq=False)
class _Loader:
    document: Document
    registry: Registry
    data: Path | None
    dataset: Dataset | None
    problems: list[Problem]
    converter: Converter = attrs.field(init=False)
    entries: Entries = attrs.field(init=False)

    def load(self) -> FileSpec:
        self.converter = Converter(self.document, {}, self.data, self.problems)
        top = self.document.data
        for key in top:
            if key == KEY:
                self._late((key,))
            elif key not in _TOP:
                self._report("E101", f"unknown key {key!r}", (key,), hint=nearest(key, [*_TOP, KEY]), part="key")
        self._check_schema(top)
        resource_tables = self._tables("resources")
        self.entries = Entries(self.document, self.registry, self.converter, self._tables("components"))
        self.converter.resources = self._resource_classes()
        resources = {}
        for name in resource_tables:
            spec = self.entries.configured("resource", name, ("resources", name), ("resources", name))
            if spec is not None:
                resources[name] = spec
        if top.get("pipelines", {}) == {}:
            self._report("E103", "the spec has no pipeline", ("pipelines",), hint="add a table [pipelines.<name>]")
        pipelines = {name: self._pipeline(name, table) for name, table in self._tables("pipelines").items()}
        self.entries.unused()
        used = [*resources.values(), *(spec for spec in self.entries.seen.values() if spec is not None)]
        self.problems += resource_problems(self.document, used, resources)
        return FileSpec(self.document, pipelines, resources, self.dataset, tuple(self.problems))

    def _report(self, code: str, message: str, path: TomlPath, *, hint: str = "", part: str = "") -> None:
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

    def _resource_classes(self) -> dict[str, type | None]:
        """The resources with their classes, `None` where that is unknown; those of malformed names as well."""
        tables = self.document.data.get("resources", {})
        if not isinstance(tables, dict):
            return {"": None}  # there may be any
        return {
            name: self.entries.resource_class(table) if isinstance(table, dict) else None
            for name, table in tables.items()
        }

    def _pipeline(self, name: str, table: Mapping[str, Any]) -> PipelineSpec:
        path: TomlPath = ("pipelines", name)
        plain = {key: value for key, value in table.items() if key not in STAGES}
        allowed = options_of(PipelineOptions)
        for key in [key for key in plain if key not in allowed]:
            if key == KEY:
                self._late((*path, key))
            else:
                hint = nearest(key, [*allowed, *STAGES, KEY])
                self._report("E101", f"unknown key {key!r} in [pipelines.{name}]", (*path, key), hint=hint, part="key")
            del plain[key]
        values = self.converter.table(plain, allowed, path, f"[pipelines.{name}]")
        options = PipelineOptions(**values)
        inputs = self._inputs(options, path)
        baseless = self.document.incomplete or name in self.document.unsound
        partial = baseless or len(inputs) < len(options.inputs) or ("inputs" in plain and "inputs" not in values)
        fallbacks: dict[str, ComponentSpec] = {}
        stages = {}
        for stage, kind in STAGES.items():
            specs = self._stage(stage, kind, table, path)
            stages[stage] = tuple(spec for spec in specs if spec is not None)
            partial = partial or None in specs
            for spec in stages[stage]:
                partial = not self._fallbacks(spec, fallbacks) or partial
        for needed in ("sources", "selector"):
            if needed not in table:
                if not baseless:
                    self._report("E103", f"[pipelines.{name}] needs the key {needed!r}", path, part="key")
                partial = True
        listed = list(options.show)
        show = [
            self._key(shown, (*path, "show", at), Column)
            for at, shown in enumerate(listed)
            if not (is_special(shown) and self._unresolved((*path, "show"), listed, at))
        ]
        return PipelineSpec(
            name,
            options,
            inputs,
            tuple(key for key in show if isinstance(key, Column)),
            stages,
            fallbacks,
            path,
            partial,
        )

    def _late(self, path: TomlPath) -> None:
        """Report an `extends` that an override sets."""
        hint = "write it into the spec; an override can change what was inherited"
        self._report("E108", "extends cannot be overridden: overrides come after it", path, hint=hint)

    def _unresolved(self, path: TomlPath, entries: list[Any], at: int) -> bool:
        """Report a list entry that refers to a base which is not there; always true."""
        mistake = unresolved(self.document, path, entries, at)
        if mistake is not None and path[1] not in self.document.unsound:
            self._report("E110", mistake[0], (*path, at), hint=mistake[1])
        return True

    def _inputs(self, options: PipelineOptions, path: TomlPath) -> dict[str, QueryFeature[Any]]:
        inputs = {}
        for parameter, key_name in options.inputs.items():
            place = (*path, "inputs", parameter)
            if parameter in RESERVED_INPUTS:
                why = "every request, or the command `run`, has an option of that name"
                self._report("E105", f"{parameter!r} is not a name for an input: {why}", place, part="key")
            elif not _LOCAL_NAME.fullmatch(parameter):
                hint = "a name is lower-case letters, digits and underscores"
                self._report("E105", f"{parameter!r} is not a name for an input", place, hint=hint, part="key")
            feature = self._key(key_name, place, QueryFeature)
            if isinstance(feature, QueryFeature):
                inputs[parameter] = feature
        return inputs

    def _stage(self, stage: Stage, kind: Kind, table: Mapping[str, Any], path: TomlPath) -> list[ComponentSpec | None]:
        """The components of a stage, `None` for each entry that names none."""
        value = table.get(stage, [])
        if stage == "selector" and stage in table:
            if not isinstance(value, str):
                self._report("E102", f"selector: wanted a string, found {describe(value)}", (*path, stage))
                return [None]
            return [self.entries.entry(kind, value, (*path, stage))]
        if not isinstance(value, list):
            self._report("E102", f"{stage}: wanted a list of strings, found {describe(value)}", (*path, stage))
            return [None]
        if stage == "sources" and stage in table and not value:
            self._report("E104", "sources: wanted at least one, found an empty list", (*path, stage))
        specs: list[ComponentSpec | None] = []
        names: set[str] = set()
        for at, entry in enumerate(value):
            place: TomlPath = (*path, stage, at)
            if not isinstance(entry, str):
                self._report("E102", f"wanted a string, found {describe(entry)}", place)
                specs.append(None)
            elif is_special(entry) and self._unresolved((*path, stage), value, at):
                specs.append(None)
            elif entry in names:
                hint = "give one of them a name of its own: [components.<name>] with use = ..."
                self._report("E308", f"{entry!r} stands twice in {stage}", place, hint=hint)
            else:
                names.add(entry)
                specs.append(self.entries.entry(kind, entry, place))
        return specs

    def _fallbacks(self, spec: ComponentSpec, found: dict[str, ComponentSpec]) -> bool:
        """Resolve the fallbacks of a component, and theirs; false if one of them is missing."""
        sound = True
        for key in ("on_error", "on_timeout"):
            policy = getattr(spec.run, key)
            if policy is None or not policy.startswith(FALLBACK):
                continue
            name = policy.removeprefix(FALLBACK)
            target = self.entries.entry(spec.kind, name, (*spec.path, "run", key))
            if target is None:
                sound = False
            elif name not in found:  # the compiler sees whether the chain leads back
                found[name] = target
                sound = self._fallbacks(target, found) and sound
        return sound

    def _key(self, name: str, path: TomlPath, wanted: type[QueryFeature[Any]] | type[Column[Any]]) -> Key | None:
        key = self.registry.key(name)
        what = "query feature" if wanted is QueryFeature else "column"
        if isinstance(key, wanted):
            return key
        broken = self.registry.broken_for(name)
        family = self.registry.families().get(name)
        if key is not None:
            other = "column" if wanted is QueryFeature else "query feature"
            self._report("E205", f"{name!r} is a {other}, wanted a {what}", path)
        elif family is not None:
            hint = f"name one of them: '{name}.<name>'" if wanted is Column else ""
            self._report("E205", f"{name!r} is a family of columns, wanted a {what}", path, hint=hint)
        elif broken is not None:
            cause = f"{broken.distribution} {broken.version} could not be loaded: {broken.cause}"
            self._report("E201", f"no {what} named {name!r}", path, hint=cause)
        else:
            self._report("E205", f"no {what} named {name!r}", path, hint=self._near(name, wanted))
        return None

    def _near(self, name: str, wanted: type[QueryFeature[Any]] | type[Column[Any]]) -> str:
        """What a key of an unknown name may have been meant to be."""
        space, _, member = name.rpartition(".")
        families = self.registry.families() if wanted is Column and space else {}
        if space in families:
            return families[space].problem(member)
        alike = [known for known in families if known.rpartition(".")[2] == space.rpartition(".")[2]]
        for known in (*difflib.get_close_matches(space, families, 1, cutoff=0.75), *alike):
            if not families[known].problem(member):
                return f"did you mean '{known}.{member}'?"
        return nearest(name, (key.name for key in self.registry.keys().values() if isinstance(key, wanted)))
