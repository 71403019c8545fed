"""The fingerprint of a compiled pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from candidate_pipeline.engine.plan import Node
from candidate_pipeline.engine.policies import Member
from candidate_pipeline.keys import Key
from candidate_pipeline.spec.fingerprint import Canon, Identity, core_plugin, digest
from candidate_pipeline.spec.model import STAGES, StageOptions

if TYPE_CHECKING:
    from candidate_pipeline.engine.wiring import Compiler


def identity_of_pipeline(compiler: Compiler, nodes: Sequence[Node], made_from: Mapping[int, Member]) -> Identity:
    """What decides how a pipeline ranks, but for its data.

    Its components by name, in their order, with their options and engine settings; its inputs; its own settings but for
    `doc` and `show`; the pipelines inside it; the versions of the distributions that all of this comes from. Names of
    components count because their randomness depends on them.

    Args:
        compiler: The pipeline's.
        nodes: Its components' nodes, fallbacks included.
        made_from: The components before compiling, by the number of their node.
    """
    canon = Canon(compiler.document)
    plugins = core_plugin()
    listed: dict[str, list[Any]] = {stage: [] for stage in STAGES}
    made: dict[tuple[str, str], Any] = {}
    for node in nodes:
        member = made_from.get(node.index)
        if member is None:  # what tops up, which stands below
            continue
        plugins |= member.identity.plugins
        if node.inner is not None:
            plugins |= node.inner.plugins
        made[node.stage, node.name] = [node.name, node.fingerprint, _policy(canon, node, member)]
    for member in compiler.members:
        listed[member.stage].append(made.pop((member.stage, member.name)))
    fallbacks = sorted([stage, entry] for (stage, _), entry in made.items())
    options = compiler.options
    settings = {
        name: canon.of(getattr(options, name), (*compiler.path, name))
        for name in ("result_size", "min_results", "max_refills", "deadline", "semantics")
    }
    stages = {
        name: canon.of(each, (*compiler.path, "stages", name))
        for name, each in options.stages.items()
        if each != StageOptions()
    }
    inputs = {name: feature.name for name, feature in compiler.inputs.items()}
    inner = None
    if compiler.top_up is not None:
        inner = compiler.top_up.config_hash
        plugins |= compiler.top_up.plugins
    form = [settings, stages, inputs, list(listed.items()), fallbacks, inner, plugins]
    return Identity(digest(form), dict(sorted(plugins.items())))


def _policy(canon: Canon, node: Node, member: Member) -> dict[str, Any]:
    """A component's engine settings as they hold, whether they were written or are the defaults."""
    run, effect = member.run, node.effect
    holding: dict[str, Any] = {
        "timeout": run.timeout,
        "on_error": node.on_error if node.fallback is None else f"fallback:{node.fallback.name}",
        "on_timeout": node.on_timeout if node.late is None else f"fallback:{node.late.name}",
        "safety": node.safety,
        "when": run.when,
        "cache": None,
        "breaker": run.breaker,
        "threads": node.threads if node.mode == "thread" else None,
        "sync": node.sync,
        "retries": None if effect is None else effect.retries,
        "backoff": None if effect is None else effect.backoff,
        "max_pending": None if effect is None else effect.max_pending,
    }
    if run.cache is not None and node.cache is not None:
        negative = run.cache.ttl if run.cache.negative_ttl is None else run.cache.negative_ttl
        parts: tuple[Key, ...] = (*node.cache.features, *node.cache.columns)
        keys = sorted(key.name for key in parts)
        holding["cache"] = attrs.evolve(run.cache, key=tuple(keys), negative_ttl=negative)
    return {key: canon.of(value, member.at(key)) for key, value in holding.items()}
