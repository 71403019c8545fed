"""The registry: which plugins are installed and what they offer.

Names in TOML resolve only through it. A plugin that cannot be loaded becomes a `BrokenPlugin` record, shown by
`candidate-pipeline components` and in the message for a name of its namespace, and hurts nobody else.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

import attrs
import pluggy

from candidate_pipeline.errors import MisconfigurationError
from candidate_pipeline.plugin import BUILTIN_COMMANDS, GROUP, Command, HookSpecs, Kind, Plugin

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from candidate_pipeline.keys import ColumnFamily, Key


@attrs.frozen
class BrokenPlugin:
    """A plugin that could not be loaded, and why."""

    entry_point: str
    distribution: str
    version: str
    cause: str


@attrs.frozen
class ComponentRef:
    """A registered component: where it comes from and how to get its class."""

    kind: Kind
    name: str
    target: str | type
    distribution: str
    version: str

    def load(self) -> type:
        """The component's class, imported on first use.

        Raises:
            MisconfigurationError: The module does not import or has no such class.
        """
        if isinstance(self.target, type):
            return self.target
        loaded = resolve(self.target, f"{self.kind} {self.name} of {self.distribution} {self.version}")
        if not isinstance(loaded, type):
            raise MisconfigurationError(f"{self.name}: {self.target} is a {type(loaded).__name__}, wanted a class")
        return loaded


def resolve(target: str, what: str) -> Any:
    """The object that `"module:name"` names.

    Raises:
        MisconfigurationError: The module does not import or has no such name.
    """
    module_name, _, name = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise MisconfigurationError(
            f"{what}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error
    try:
        return getattr(module, name) if name else module
    except AttributeError:
        raise MisconfigurationError(f"{what}: {module_name} has no {name!r}") from None


class Registry:
    """The plugins that take part, by name.

    Args:
        plugins: Plugins given directly, beside or instead of installed ones.
        broken: Plugins that could not be loaded.
    """

    def __init__(self, plugins: Iterable[Plugin] = (), broken: Iterable[BrokenPlugin] = ()) -> None:
        self.broken: list[BrokenPlugin] = list(broken)
        self._components: dict[tuple[Kind, str], ComponentRef] = {}
        self._commands: dict[str, Command] = {}
        self._command_owners = dict.fromkeys(sorted(BUILTIN_COMMANDS), "candidate-pipeline")
        self._key_sources: list[tuple[Plugin, str, str]] = []
        self._keys: _Keys | None = None
        self._namespaces: dict[str, str] = {"core": "candidate-pipeline"}
        for plugin in plugins:
            self.add(plugin)

    def add(self, plugin: Plugin, distribution: str = "(given)", version: str = "-") -> None:
        """Add a plugin.

        Raises:
            MisconfigurationError: Its namespace or a command is taken.
            TypeError: It is no `Plugin`.
        """
        if not isinstance(plugin, Plugin):
            raise TypeError(f"wanted a Plugin, found {plugin!r:.80}")
        owner = self._namespaces.get(plugin.namespace)
        if owner is not None:
            raise MisconfigurationError(f"the namespace {plugin.namespace!r} of {distribution} is taken by {owner}")
        for words in sorted(plugin.commands):
            owner = self._owner_of_command(words)
            if owner is not None:
                raise MisconfigurationError(f"the command {words!r} of {distribution} is taken by {owner}")
        self._namespaces[plugin.namespace] = distribution
        for kind, named in plugin.components.items():
            for name, target in named.items():
                full = f"{plugin.namespace}.{name}"
                self._components[kind, full] = ComponentRef(kind, full, target, distribution, version)
        for words, command in plugin.commands.items():
            self._commands[words] = command
            self._command_owners[words] = distribution
        self._key_sources.append((plugin, distribution, version))
        self._keys = None

    def _owner_of_command(self, words: str) -> str | None:
        """Who has a command already, or one that it would hide: `shop` hides `shop import`."""
        first = words.partition(" ")[0]
        for taken, owner in self._command_owners.items():
            if taken in {words, first} or (words == first and taken.partition(" ")[0] == first):
                return f"{owner} ({taken!r})"
        return None

    @property
    def commands(self) -> dict[str, Command]:
        """Plugins' commands by the words that call them."""
        return dict(self._commands)

    def components(self, kind: Kind | None = None) -> list[ComponentRef]:
        """Registered components, of one kind or all, sorted by kind and name."""
        refs = (ref for ref in self._components.values() if kind in {None, ref.kind})
        return sorted(refs, key=lambda ref: (ref.kind, ref.name))

    def find(self, kind: Kind, name: str) -> ComponentRef | None:
        """The component of a kind and name, if there is one."""
        return self._components.get((kind, name))

    def kinds_of(self, name: str) -> list[Kind]:
        """The kinds under which a name is registered."""
        return [kind for kind, other in self._components if other == name]

    def broken_for(self, name: str) -> BrokenPlugin | None:
        """The broken plugin that may have offered a name, judged by its namespace."""
        namespace = name.partition(".")[0]
        return next((broken for broken in self.broken if broken.entry_point == namespace), None)

    def keys(self) -> dict[str, Key]:
        """Every key by name, but for members of families.

        A module of keys that does not import, and a second key of a name, add a record to `broken` and are left out.
        """
        return self._collected().keys

    def families(self) -> dict[str, ColumnFamily[Any]]:
        """Every family of columns by name; what is broken is told as for `keys`."""
        return self._collected().families

    def key(self, name: str) -> Key | None:
        """The key of a name, which may be that of a family's member; `None` if there is none."""
        found = self.keys().get(name)
        space, _, member = name.rpartition(".")
        family = self.families().get(space)
        if found is not None or family is None or family.problem(member):
            return found
        return family[member]

    def _collected(self) -> _Keys:
        if self._keys is None:
            self._keys, broken = _collect_keys(self._key_sources)
            self.broken += [record for record in broken if record not in self.broken]
        return self._keys


@attrs.frozen
class _Keys:
    """Keys and families by name."""

    keys: dict[str, Key]
    families: dict[str, ColumnFamily[Any]]

    def clash(self, name: str, key: Any) -> str:
        """Why a key or family cannot be beside those that are there already; empty if it can."""
        taken = self.keys.get(name, self.families.get(name))
        if taken is not None and taken is not key:
            return f"a second key is named {name!r}; rename one of them"
        space, _, member = name.rpartition(".")
        if space in self.families and self.families[space][member] is not key:
            return f"{name!r} is named like a member of the family {space!r}; rename one of them"
        for other, known in {**self.keys, **self.families}.items() if hasattr(key, "members") else ():
            space, _, member = other.rpartition(".")
            if space == name and key[member] is not known:
                return f"{other!r} is named like a member of the family {name!r}; rename one of them"
        return ""


def _collect_keys(sources: Sequence[tuple[Plugin, str, str]]) -> tuple[_Keys, list[BrokenPlugin]]:
    from candidate_pipeline import keys as core
    from candidate_pipeline.merge import ITEM_TEXT_ID

    found = _Keys({key.name: key for key in (core.ITEM_ID, core.SCORE, ITEM_TEXT_ID)}, {})
    broken = []
    for plugin, distribution, version in sources:
        given: Iterable[Any] = () if isinstance(plugin.keys, str) else plugin.keys
        if isinstance(plugin.keys, str):
            try:
                given = vars(resolve(plugin.keys, f"keys of {distribution}")).values()
            except MisconfigurationError as error:
                broken.append(BrokenPlugin(plugin.namespace, distribution, version, str(error)))
        for key in given:
            if not isinstance(key, core.QueryFeature | core.Column | core.ColumnFamily):
                continue
            cause = found.clash(key.name, key)
            if cause:
                broken.append(BrokenPlugin(plugin.namespace, distribution, version, cause))
            elif isinstance(key, core.ColumnFamily):
                found.families[key.name] = key
            else:
                found.keys[key.name] = key
    return found, broken


def _load_installed() -> Registry:
    registry = Registry()
    for entry in sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        distribution = entry.dist.name if entry.dist else "(unknown)"
        version = entry.dist.version if entry.dist else "-"
        try:
            registry.add(_plugin_of(entry), distribution, version)
        except (Exception, SystemExit) as error:
            registry.broken.append(BrokenPlugin(entry.name, distribution, version, f"{type(error).__name__}: {error}"))
    return registry


def _plugin_of(entry: metadata.EntryPoint) -> Plugin:
    # A manager of its own, so that nothing of a broken plugin is left for the next one to trip over.
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(HookSpecs)
    manager.register(entry.load(), name=entry.name)
    manager.check_pending()
    found = manager.hook.candidate_pipeline_plugin()
    if not found:
        raise MisconfigurationError(f"{entry.value} has no hook candidate_pipeline_plugin, or it returned None")
    plugin: Plugin = found[0]
    return plugin


_INSTALLED: Final[list[Registry]] = []


def installed() -> Registry:
    """The registry of installed plugins, found once per process."""
    if not _INSTALLED:
        _INSTALLED.append(_load_installed())
    return _INSTALLED[0]
