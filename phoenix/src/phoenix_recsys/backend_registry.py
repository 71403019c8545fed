"""Which backends there are: the library's own, and those that installed distributions register through pluggy.

A distribution registers backends with an entry point of the group ``phoenix_recsys`` whose module has::

    from phoenix_recsys.backend_registry import hookimpl


    @hookimpl
    def phoenix_ranker_backends():
        return {"my_kernel": "my_package.backend:MyKernelRanker"}

The target is called as ``MyKernelRanker(artifact, options)`` and gives a
:class:`~phoenix_recsys.backend.RankerBackend`. This module imports no JAX.
"""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import attrs
import pluggy

from phoenix_recsys.backend import BackendOptions, RankerBackend
from phoenix_recsys.config import Positions
from phoenix_recsys.errors import PhoenixError

if TYPE_CHECKING:  # so that names can be checked without importing JAX
    from phoenix_recsys.artifact import Artifact

GROUP = "phoenix_recsys"
"""The pluggy project, and the group of entry points."""
OWN = {
    "eager": "phoenix_recsys.plain_backend:EagerRanker",
    "jit": "phoenix_recsys.plain_backend:JitRanker",
    "kv_cache": "phoenix_recsys.prefix_infer:PrefixRanker",
}
DEFAULT = "kv_cache"

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)

Factory: TypeAlias = "Callable[[Artifact, BackendOptions], RankerBackend]"


class HookSpecs:
    """What a distribution can implement."""

    @hookspec
    def phoenix_ranker_backends(self) -> Mapping[str, str | Factory]:  # type: ignore[empty-body] # a specification
        """Names of backends, each with its factory or ``"module:factory"``, which is imported on first use."""


class BackendError(PhoenixError):
    """A backend that does not exist, or that cannot be loaded."""


@attrs.frozen
class Registered:
    """A backend and where it comes from.

    Attributes:
        name: what a configuration calls it.
        target: its factory, or ``"module:factory"``.
        source: the distribution or plugin that registered it.
    """

    name: str
    target: str | Factory
    source: str

    def load(self) -> Factory:
        """Its factory.

        Raises:
            BackendError: if its module cannot be imported, or has no such callable.
        """
        if not isinstance(self.target, str):
            return self.target
        module, _, name = self.target.partition(":")
        try:
            found: Any = getattr(importlib.import_module(module), name)
        except Exception as error:
            raise BackendError(
                f"backend {self.name!r} of {self.source}: importing {self.target} failed: {error!r}"
            ) from error
        if not callable(found):
            raise BackendError(
                f"backend {self.name!r} of {self.source}: {self.target} is a {type(found).__name__}, wanted a callable"
            )
        return cast("Factory", found)


@functools.cache
def manager() -> pluggy.PluginManager:
    """The plugin manager of this process, with all installed plugins; further ones may be registered with it.

    Raises:
        BackendError: if an installed plugin cannot be imported, or implements no such hook.
    """
    found = pluggy.PluginManager(GROUP)
    found.add_hookspecs(HookSpecs)
    try:
        found.load_setuptools_entrypoints(GROUP)
        found.check_pending()
    except Exception as error:
        installed = ", ".join(f"{entry.name} = {entry.value}" for entry in metadata.entry_points(group=GROUP))
        raise BackendError(
            f"of the entry points of group {GROUP} ({installed}), one cannot be used: {error!r}. "
            "Repair or uninstall its distribution."
        ) from error
    return found


def backends(plugins: pluggy.PluginManager | None = None) -> dict[str, Registered]:
    """All backends by name.

    Args:
        plugins: where to look beside the library's own; default :func:`manager`.

    Raises:
        BackendError: if two register one name, or a plugin fails or answers with no mapping of names to factories.
    """
    plugins = plugins or manager()
    found = {name: Registered(name, target, "phoenix-recsys") for name, target in OWN.items()}
    for implementation in plugins.hook.phoenix_ranker_backends.get_hookimpls():
        source = _source(plugins, implementation)
        try:
            offered: Any = implementation.function()
        except Exception as error:
            raise BackendError(f"{source}: phoenix_ranker_backends failed: {error!r}") from error
        if not isinstance(offered, Mapping):
            raise BackendError(f"{source}: phoenix_ranker_backends must return a mapping, found {offered!r}")
        for name, target in offered.items():
            if not isinstance(name, str) or not (isinstance(target, str) or callable(target)):
                raise BackendError(
                    f"{source}: phoenix_ranker_backends must map names to factories or 'module:factory', "
                    f"found {name!r}: {target!r}"
                )
            if name in found:
                raise BackendError(
                    f"two backends are called {name!r}: one of {found[name].source}, one of {source}. Uninstall one."
                )
            found[name] = Registered(name, target, source)
    return found


def find_backend(name: str, plugins: pluggy.PluginManager | None = None) -> Registered:
    """A backend by name, not imported yet.

    Raises:
        BackendError: if there is none of that name, or as :func:`backends`.
    """
    known = backends(plugins)
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise BackendError(f"no ranker backend is called {name!r}; there are {', '.join(sorted(known))}.{hint}")
    return known[name]


def make_backend(
    name: str,
    artifact: Artifact,
    options: BackendOptions | None = None,
    *,
    plugins: pluggy.PluginManager | None = None,
) -> RankerBackend:
    """A ranker served by a backend; not warmed up yet.

    Raises:
        BackendError: if there is no such backend, it cannot be loaded, or what it makes is none.
        ValueError: if the backend refuses the options.
    """
    found = find_backend(name, plugins)
    made = found.load()(artifact, options or BackendOptions())
    if not isinstance(made, RankerBackend):
        raise BackendError(f"backend {name!r} of {found.source} made a {type(made).__name__}, no RankerBackend")
    return made


def load_ranker(
    directory: Path | str,
    backend: str = DEFAULT,
    options: BackendOptions | None = None,
    *,
    default_positions: Positions = "anchored",
) -> RankerBackend:
    """Load a ranker's artifact directory and serve it by a backend; not warmed up yet.

    Args:
        directory: the artifact; under ``int8`` the backend gets its tables quantised.
        backend: its name.
        options: of the backend.
        default_positions: where config.json names no positions, as published ones do not.

    Raises:
        ArtifactError: if the directory is no sound ranker.
        BackendError: as :func:`make_backend`.
        ValueError: likewise.
    """
    from phoenix_recsys.artifact import load_artifact

    options = options or BackendOptions()
    find_backend(backend)  # a misspelt name shows before minutes of loading
    # Read block by block, so that int8 never needs the room that float tables would.
    int8 = options.precision == "int8"
    artifact = load_artifact(directory, kind="ranker", default_positions=default_positions, quantize_tables=int8)
    return make_backend(backend, artifact, options)


def _source(plugins: pluggy.PluginManager, implementation: pluggy.HookImpl) -> str:
    for plugin, distribution in plugins.list_plugin_distinfo():
        if plugin is implementation.plugin:
            named: metadata.Distribution = distribution._dist  # pluggy's facade has no typed name
            return f"{named.metadata['Name']} {named.version}"
    return str(implementation.plugin_name)
