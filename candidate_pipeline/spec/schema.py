"""The JSON Schema of specs, with the options of installed plugins, for editors that read TOML by a schema.

It is draft 7, which is what Taplo (Even Better TOML) and Tombi read. Both complete from `properties`,
`patternProperties`, `enum` and `anyOf`, so all that can be completed stands there; what only validates stands in the
conditions at the end, which Taplo does not complete from.

A schema sees one value at a time, so it says less than the loader: which names exist in the file, what is written
before it is read, and whether settings fit each other remain the business of `candidate-pipeline check`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from candidate_pipeline.engine.gates import OPERATORS
from candidate_pipeline.errors import MisconfigurationError
from candidate_pipeline.keys import Column, QueryFeature
from candidate_pipeline.options import Option, is_resource_type, options_of
from candidate_pipeline.plugin import KINDS, Kind
from candidate_pipeline.registry import ComponentRef, Registry
from candidate_pipeline.spec.document import SCHEMA
from candidate_pipeline.spec.entries import NESTED, nested_ref, words
from candidate_pipeline.spec.loader import RESERVED_INPUTS
from candidate_pipeline.spec.model import FALLBACK, STAGES, PipelineOptions, RunPolicy, StageOptions
from candidate_pipeline.spec.schema_values import (
    NAME,
    REST,
    Schema,
    demands_of,
    from_environment,
    option_schema,
    table_schema,
)

DRAFT: Final = "http://json-schema.org/draft-07/schema#"

_EFFECT_ONLY: Final = ("sync", "retries", "backoff", "max_pending")
#: A table of which a condition says only a part; Tombi takes a table for closed that does not say so.
_OPEN: Final[Mapping[str, Any]] = {"type": "object", "additionalProperties": True}
_WITHOUT_BASE: Final[Mapping[str, Any]] = {**_OPEN, "not": {**_OPEN, "required": ["extends"]}}
#: List entries that refer to the list of a base.
_OF_BASE: Final = (
    {"enum": [REST], "description": "The entries of the base that `extends` names."},
    {
        "type": "string",
        "pattern": "^-[a-z][a-z0-9_]*(\\.[a-z][a-z0-9_]*)*$",
        "description": "Leaves out an entry of the base.",
    },
)
#: Keys of `run` that a kind cannot have.
_WITHOUT: Final[Mapping[Kind, tuple[str, ...]]] = {
    "query_hydrator": ("safety", *_EFFECT_ONLY),
    "source": ("safety", *_EFFECT_ONLY),
    "hydrator": ("safety", *_EFFECT_ONLY),
    "filter": ("timeout", "on_timeout", "cache", "breaker", "threads", *_EFFECT_ONLY),
    "scorer": ("safety", "cache", *_EFFECT_ONLY),
    "selector": ("timeout", "on_timeout", "safety", "cache", "breaker", "threads", *_EFFECT_ONLY),
    "side_effect": ("safety", "cache", "breaker"),
}


def json_schema(registry: Registry, left_out: Callable[[str], None] | None = None) -> dict[str, Any]:
    """The JSON Schema of a spec file.

    Args:
        registry: The plugins whose components, options and keys it holds.
        left_out: Called with a sentence for each component whose class or options could not be read; such a component
            is not in the schema. The same goes for plugins that are broken as a whole.

    Returns:
        A schema of draft 7, ready for `json.dumps`. Of TOML's types, date-times are the strings that JSON writes them
        as.
    """
    return _Writer(registry, left_out or (lambda _: None)).document()


class _Writer:
    def __init__(self, registry: Registry, left_out: Callable[[str], None]) -> None:
        self.registry = registry
        keys = registry.keys().values()
        self.features = {key.name: key for key in keys if isinstance(key, QueryFeature)}
        self.columns = {key.name: key for key in keys if isinstance(key, Column)}
        self.families = registry.families()
        self.options: dict[Kind, dict[str, dict[str, Option]]] = {kind: {} for kind in KINDS}
        self.about: dict[tuple[Kind, str], str] = {}
        for ref in [nested_ref(), *registry.components()]:
            try:
                cls = ref.load()
                self.options[ref.kind][ref.name] = options_of(cls)
                self.about[ref.kind, ref.name] = _about(ref, cls)
            except MisconfigurationError as error:
                left_out(f"{ref.kind} {error}" if str(error).startswith(ref.name) else str(error))
            except Exception as error:  # what an annotation that does not resolve raises
                left_out(f"{words(ref.kind)} {ref.name} of {ref.distribution} {ref.version}: {error}")
        for broken in registry.broken:
            left_out(f"{broken.distribution} {broken.version} ({broken.entry_point}) is broken: {broken.cause}")

    def document(self) -> Schema:
        definitions: Schema = {f"run.{kind}": self._run(kind) for kind in _WITHOUT}
        for kind, named in self.options.items():
            for use, options in named.items():
                definitions[f"{kind}.{use}"] = self._component(kind, use, options)
        definitions |= {stage: self._stage(kind, stage) for stage, kind in STAGES.items()}
        definitions |= {"pipeline": self._pipeline(), "budget": self._budget(), "when": self._when()}
        resources, components = list(self.options["resource"]), self._uses()
        return {
            "$schema": DRAFT,
            "title": "candidate-pipeline spec",
            "description": f"Pipelines of typed plugins: {', '.join(self._distributions())}.",
            "type": "object",
            "properties": {
                "schema": {"const": SCHEMA, "type": "integer", "description": "The version of the format."},
                "extends": {
                    "type": "string",
                    "pattern": "\\.toml$",
                    "description": "The file that this one is laid over; a path from this file's folder.",
                },
                "pipelines": _named("pipeline", "The pipelines, by name.", _ref("pipeline")),
                "components": _named(
                    "component",
                    "Components with settings, by the name under which pipelines list them.",
                    self._any_of(components, [use for _, use in components]),
                ),
                "resources": _named(
                    "resource",
                    "Long-lived objects that components share, by name.",
                    self._any_of([("resource", use) for use in resources], resources),
                ),
            },
            "additionalProperties": False,
            "if": _WITHOUT_BASE,
            "then": self._whole(),
            "definitions": definitions,
        }

    def _distributions(self) -> list[str]:
        return list(dict.fromkeys(f"{ref.distribution} {ref.version}" for ref in self.registry.components()))

    def _uses(self) -> list[tuple[Kind, str]]:
        return [(kind, use) for kind, named in self.options.items() if kind != "resource" for use in named]

    def _any_of(self, entries: Iterable[tuple[Kind, str]], uses: list[str]) -> Schema:
        """A table that `use` decides. Over a base it may leave `use` out, and fits any component with such options."""
        variants: list[Schema] = [_ref(f"{kind}.{use}") for kind, use in entries]
        return {
            "type": "object",
            "properties": {"use": {"enum": list(dict.fromkeys(uses)), "description": "The registered name."}},
            "additionalProperties": True,
            "anyOf": variants or [{}],
        }

    def _component(self, kind: Kind, use: str, options: Mapping[str, Option]) -> Schema:
        properties: Schema = {"use": {"const": use, "type": "string"}}
        if kind != "resource":
            properties["run"] = _ref(f"run.{kind}")
        properties |= {name: option_schema(option) for name, option in options.items()}
        return {
            "title": f"{use} ({words(kind)})",
            "description": self.about[kind, use],
            "type": "object",
            "properties": properties,
            "additionalProperties": False,
        }

    def _run(self, kind: Kind) -> Schema:
        table = table_schema(RunPolicy)
        properties = {name: schema for name, schema in table["properties"].items() if name not in _WITHOUT[kind]}
        for key in ("on_error", "on_timeout"):
            if key in properties:
                properties[key] = {"description": properties[key]["description"], **_policy(kind)}
        properties["when"] = {"description": properties["when"]["description"], "allOf": [_ref("when")]}
        return {
            "title": f"run ({words(kind)})",
            "description": f"How the engine runs a {words(kind)}.",
            **table,
            "properties": properties,
        }

    def _stage(self, kind: Kind, stage: str) -> Schema:
        registered = [name for name in self.options[kind] if name != NESTED]
        local = {"type": "string", "pattern": NAME, "description": "A name of [components.*]."}
        entry = {"anyOf": [{"enum": registered}, local]}
        if stage == "selector":
            return {"description": "The component that chooses and orders the rows to return.", **entry}
        return {
            "type": "array",
            "description": f"The {words(kind)}s" + (", in order." if kind in {"filter", "scorer"} else "."),
            "items": {"anyOf": [*entry["anyOf"], *_OF_BASE]},
        }

    def _pipeline(self) -> Schema:
        table = table_schema(PipelineOptions)
        described = {name: schema.get("description", "") for name, schema in table["properties"].items()}
        properties: Schema = {
            "extends": {"type": "string", "pattern": NAME, "description": "The pipeline that this one is laid over."},
            **table["properties"],
            **{stage: _ref(stage) for stage in STAGES},
        }
        properties["inputs"] = {
            "type": "object",
            "description": described["inputs"],
            "propertyNames": {"not": {"enum": sorted(RESERVED_INPUTS)}},
            "patternProperties": {NAME: from_environment({"enum": list(self.features)})},
            "additionalProperties": False,
        }
        properties["show"] = {
            "type": "array",
            "description": described["show"],
            "items": {"anyOf": [*self._shown(), *_OF_BASE]},
        }
        properties["stages"] = {
            "type": "object",
            "description": described["stages"],
            "properties": {place: _ref("budget") for place in (*STAGES, "top_up")},
            "additionalProperties": False,
        }
        return {"title": "pipeline", "type": "object", "properties": properties, "additionalProperties": False}

    def _shown(self) -> list[Schema]:
        """What a column that is to be shown may be: a known one, or a member of a family."""
        members: list[Schema] = [
            {
                "type": "string",
                "pattern": f"^{re.escape(name)}\\.[a-z][a-z0-9_]*$",
                "description": family.doc,
            }
            for name, family in self.families.items()
        ]
        listed: Schema = {"enum": list(self.columns)}
        *_, variable = from_environment({"anyOf": [listed, *members]} if members else listed)["anyOf"]
        return [listed, *members, variable]

    def _budget(self) -> Schema:
        table = table_schema(StageOptions)
        about = table["properties"]["when"]["description"]
        properties = {**table["properties"], "when": {"description": about, "allOf": [_ref("when")]}}
        return {"title": "stage", **table, "properties": properties}

    def _when(self) -> Schema:
        plain: list[Schema] = [{"type": kind} for kind in ("boolean", "integer", "number", "string")]
        number: list[Schema] = [{"type": "integer"}, {"type": "number"}]
        tests: dict[str, Schema] = {
            "is": {"anyOf": plain},
            "not": {"anyOf": plain},
            "in": {"type": "array", "items": {"anyOf": plain}},
            "min": {"anyOf": number},
            "max": {"anyOf": number},
            "min_length": {"type": "integer", "minimum": 0},
            "present": {"type": "boolean"},
        }
        table = {
            "type": "object",
            "properties": {name: tests[name] for name in OPERATORS},
            "additionalProperties": False,
            "minProperties": 1,
        }
        condition = {"anyOf": [*plain, table]}
        return {
            "type": "object",
            "properties": {name: {"description": key.doc, **condition} for name, key in self.features.items()},
            "additionalProperties": condition,
        }

    def _whole(self) -> Schema:
        """What a file must give that is laid over no other."""
        pipeline = {
            **_OPEN,
            "if": _WITHOUT_BASE,
            "then": {
                **_OPEN,
                "required": ["sources", "selector"],
                "properties": {"sources": {"minItems": 1}},
                "dependencies": {"min_results": ["top_up"], "top_up": ["min_results"]},
            },
        }
        return {
            **_OPEN,
            "required": ["schema", "pipelines"],
            "properties": {
                "pipelines": {"type": "object", "minProperties": 1, "additionalProperties": pipeline},
                "components": {
                    "type": "object",
                    "additionalProperties": {
                        **_OPEN,
                        "required": ["use"],
                        "properties": {"run": demands_of(options_of(RunPolicy))},
                        "allOf": self._demands([kind for kind in KINDS if kind != "resource"]),
                    },
                },
                "resources": {
                    "type": "object",
                    "additionalProperties": {**_OPEN, "required": ["use"], "allOf": self._demands(["resource"])},
                },
            },
        }

    def _demands(self, kinds: Iterable[Kind]) -> list[Schema]:
        """By registered name, the options that must be given, in the form that an `allOf` takes."""
        by_use: dict[str, list[Schema]] = {}
        for kind in kinds:
            for use, options in self.options[kind].items():
                by_use.setdefault(use, []).append(demands_of(options))
        return [
            {
                **_OPEN,
                "if": {**_OPEN, "properties": {"use": {"const": use}}},
                "then": {**_OPEN, **demands[0]},
            }
            for use, demands in by_use.items()
            if len(demands) == 1 and demands[0]  # a name of two kinds is either of them
        ] or [dict(_OPEN)]


def _policy(kind: Kind) -> Schema:
    allowed = {"selector": ["fail"]}.get(kind, ["skip", "fail"])
    return from_environment({"anyOf": [{"enum": allowed}, {"type": "string", "pattern": f"^{FALLBACK}"}]})


def _about(ref: ComponentRef, cls: type) -> str:
    text = (cls.__doc__ or "").strip().split("\n\n")[0]
    held = [option.name for option in options_of(cls).values() if is_resource_type(option.type)]
    first = " ".join(text.split()) if text and not text.startswith("Method generated by attrs") else ""
    taken = f" Takes {', '.join(held)}." if held else ""
    return f"{first}{taken} ({ref.distribution} {ref.version})".strip()


def _ref(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}


def _named(what: str, text: str, table: Schema) -> Schema:
    return {
        "type": "object",
        "description": text,
        "patternProperties": {NAME: table},
        "additionalProperties": False,
        "x-tombi-additional-key-label": what,
    }
