"""What a plugin gives: one hook that returns a `Plugin`.

A distribution names its module in the entry-point group `candidate_pipeline`; the module holds::

    from candidate_pipeline.plugin import Plugin, hookimpl

    @hookimpl
    def candidate_pipeline_plugin() -> Plugin:
        return Plugin(
            namespace="shop",
            components={"scorer": {"margin": "shop_ranking.scorers:Margin"}},
            keys="shop_ranking.keys",
        )

Every string is resolved on first use, so listing plugins imports no component. This module and what it imports stay
light (no numpy), because `candidate-pipeline --help` reads them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, get_args

import attrs
import pluggy

#: The pluggy project name and the entry-point group.
GROUP: Final = "candidate_pipeline"

Kind = Literal["query_hydrator", "source", "hydrator", "filter", "scorer", "selector", "side_effect", "resource"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)

#: Commands of the program itself, which no plugin may take.
BUILTIN_COMMANDS: Final = frozenset({"run", "check", "components", "expand", "schema", "graph", "replay", "diff"})

_COMMAND = re.compile(r"[a-z][a-z0-9-]*( [a-z][a-z0-9-]*)?")
_NAMESPACE = re.compile(r"[a-z][a-z0-9_]*")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def _check_target(where: str, target: object) -> None:
    if isinstance(target, str) and not _TARGET.fullmatch(target):
        raise ValueError(f"{where}: wanted 'module:name', found {target!r}")


@attrs.frozen
class Command:
    """A command of the `candidate-pipeline` program.

    Args:
        target: `"module:function"`, a function with typer annotations; imported when the command runs.
        help: One line for the list of commands.
    """

    target: str = attrs.field()
    help: str = attrs.field(kw_only=True)

    @target.validator
    def _check(self, _attribute: object, target: str) -> None:
        _check_target("Command", target)


@attrs.frozen
class Plugin:
    """What one plugin adds.

    Args:
        namespace: The prefix of its names in TOML: `shop` for `shop.margin`.
        components: By kind, then by name: `"module:Class"` (or, for tests and scripts, the class itself).
        keys: The module whose module-level `QueryFeature`, `Column` and `ColumnFamily` constants are public, or the
            keys themselves.
        commands: By the one or two words that call them: `{"shop import": Command(...)}`.
    """

    namespace: str = attrs.field()
    components: Mapping[Kind, Mapping[str, str | type]] = attrs.field(factory=dict, kw_only=True)
    keys: str | Sequence[Any] = attrs.field(default=(), kw_only=True)
    commands: Mapping[str, Command] = attrs.field(factory=dict, kw_only=True)

    @namespace.validator
    def _check_namespace(self, _attribute: object, namespace: str) -> None:
        if not _NAMESPACE.fullmatch(namespace):
            raise ValueError(f"Plugin: a namespace is one lower-case word, found {namespace!r}")

    @components.validator
    def _check_components(self, _attribute: object, components: Mapping[str, Mapping[str, str | type]]) -> None:
        for kind, named in components.items():
            if kind not in KINDS:
                raise ValueError(f"Plugin {self.namespace}: no kind {kind!r}; there are: {', '.join(KINDS)}")
            for name, target in named.items():
                if not _NAMESPACE.fullmatch(name):
                    raise ValueError(f"Plugin {self.namespace}: a name is one lower-case word, found {name!r}")
                _check_target(f"Plugin {self.namespace}, {kind} {name}", target)

    @commands.validator
    def _check_commands(self, _attribute: object, commands: Mapping[str, Command]) -> None:
        for words in commands:
            if not _COMMAND.fullmatch(words):
                raise ValueError(f"Plugin {self.namespace}: a command is one or two lower-case words, found {words!r}")


class HookSpecs:
    """The hooks that the framework calls, once, when it lists plugins."""

    @hookspec
    def candidate_pipeline_plugin(self) -> Plugin:  # type: ignore[empty-body]  # a specification has no body
        """Return what the plugin adds."""
