"""Backends of third parties: found through pluggy and entry points, and refused with reasons."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pluggy
import pytest

from phoenix_recsys.artifact import Artifact, save_artifact
from phoenix_recsys.backend import BackendOptions, RankerBackend
from phoenix_recsys.backend_registry import (
    DEFAULT,
    GROUP,
    OWN,
    BackendError,
    HookSpecs,
    backends,
    hookimpl,
    load_ranker,
    make_backend,
)
from phoenix_recsys.errors import ArtifactError
from phoenix_recsys.plain_backend import EagerRanker, JitRanker


@attrs.frozen
class Plugin:
    """Registers what it is given."""

    offered: Callable[[], Any]

    @hookimpl
    def phoenix_ranker_backends(self) -> Any:
        """As the hook is specified."""
        return self.offered()


def _plugins(**offered: Callable[[], Any]) -> pluggy.PluginManager:
    """A private plugin manager with a plugin for each name."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(HookSpecs)
    for name, answer in offered.items():
        manager.register(Plugin(answer), name)
    return manager


def _of(offered: Mapping[Any, Any]) -> pluggy.PluginManager:
    return _plugins(theirs=lambda: offered)


class Loud(JitRanker):
    """Somebody's backend."""

    name = "loud"


def test_own_backends_are_there() -> None:
    """The library's three backends are registered under their names and load."""
    found = backends(_plugins())
    assert set(found) == set(OWN) == {"eager", "jit", "kv_cache"}
    assert DEFAULT in found
    assert found["eager"].load() is EagerRanker
    assert {each.source for each in found.values()} == {"phoenix-recsys"}


@pytest.mark.parametrize("target", [Loud, f"{EagerRanker.__module__}:EagerRanker"])
def test_a_plugin_adds_a_backend(small_ranker: Artifact, target: Any) -> None:
    """A factory, or its place, is enough to serve by a name of one's own, with options and all."""
    plugins = _of({"loud": target})
    assert backends(plugins)["loud"].source == "theirs"
    made = make_backend("loud", small_ranker, BackendOptions(candidate_buckets=(3,)), plugins=plugins)
    assert isinstance(made, RankerBackend)
    assert made.candidate_buckets == (3,)  # type: ignore[attr-defined] # what both have beyond the protocol
    assert set(OWN) < set(backends(plugins))


def _raise() -> Any:
    raise OSError("no such device")


@pytest.mark.parametrize(
    ("offered", "message"),
    [
        ({"jit": Loud}, r"two backends are called 'jit': one of phoenix-recsys, one of theirs\. Uninstall one"),
        (["loud"], r"theirs: phoenix_ranker_backends must return a mapping, found \['loud'\]"),
        (None, "must return a mapping, found None"),
        ({"loud": 3}, "must map names to factories or 'module:factory', found 'loud': 3"),
        ({1: Loud}, "must map names to factories"),
        ({"loud": "nowhere.at.all:Thing"}, r"'loud' of theirs: importing nowhere\.at\.all:Thing failed: Module"),
        ({"loud": "phoenix_recsys.plain_backend:Thing"}, "importing .*:Thing failed: AttributeError"),
        ({"loud": "phoenix_recsys.plain_backend"}, "importing phoenix_recsys.plain_backend failed"),
        ({"loud": "phoenix_recsys.plain_backend:CANDIDATE_BUCKETS"}, "is a tuple, wanted a callable"),
        ({"loud": lambda *_: "a string"}, "backend 'loud' of theirs made a str, no RankerBackend"),
    ],
)
def test_bad_registrations_say_why(small_ranker: Artifact, offered: Any, message: str) -> None:
    """A plugin that answers nonsense is named with what was wanted and found."""
    with pytest.raises(BackendError, match=message):
        make_backend("loud", small_ranker, plugins=_of(offered))


def test_two_plugins_of_one_name_are_told_apart() -> None:
    """Which two distributions collide is said, since one has to go."""
    plugins = _plugins(first=lambda: {"loud": Loud}, second=lambda: {"loud": Loud})
    with pytest.raises(BackendError, match=r"'loud': one of (first|second), one of (first|second)\."):
        backends(plugins)


def test_a_failing_plugin_is_named() -> None:
    """An exception in a plugin's hook is reported as that plugin's."""
    with pytest.raises(BackendError, match=r"theirs: phoenix_ranker_backends failed: OSError\('no such device'\)"):
        backends(_plugins(theirs=_raise))


def test_unknown_names_get_a_hint(small_ranker: Artifact, tmp_path: Path) -> None:
    """A misspelt name is refused with all names and the nearest one, before anything is loaded."""
    with pytest.raises(BackendError, match=r"'kvcache'; there are eager, jit, kv_cache\. Did you mean 'kv_cache'\?"):
        make_backend("kvcache", small_ranker, plugins=_plugins())
    with pytest.raises(BackendError, match=r"'zzz'; there are .*[^?]$"):
        make_backend("zzz", small_ranker, plugins=_plugins())
    with pytest.raises(BackendError, match="'jitt'"):
        load_ranker(tmp_path / "nothing", "jitt")
    with pytest.raises(ArtifactError):
        load_ranker(tmp_path / "nothing", "jit")


INSTALLED = {
    "their_ranker.py": """
        from phoenix_recsys.backend_registry import hookimpl
        from phoenix_recsys.plain_backend import JitRanker


        class Theirs(JitRanker):
            name = "theirs"


        @hookimpl
        def phoenix_ranker_backends():
            return {"theirs": "their_ranker:Theirs"}
    """,
    "their_ranker-1.5.dist-info/METADATA": """
        Metadata-Version: 2.1
        Name: their-ranker
        Version: 1.5
    """,
    "their_ranker-1.5.dist-info/entry_points.txt": """
        [phoenix_recsys]
        their_ranker = their_ranker
    """,
}


def _install(directory: Path, files: Mapping[str, str] = INSTALLED) -> None:
    """Write an installed distribution, as an installer would."""
    for name, text in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(textwrap.dedent(text).lstrip())


def _run(directory: Path, code: str) -> subprocess.CompletedProcess[str]:
    script = f"import sys; sys.path.insert(0, {str(directory)!r})\n" + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def test_installed_distributions_are_found(small_ranker: Artifact, tmp_path: Path) -> None:
    """A distribution with an entry point serves an artifact directory under its own name."""
    _install(tmp_path)
    save_artifact(tmp_path / "ranker", small_ranker)
    done = _run(
        tmp_path,
        f"""
        from phoenix_recsys import BackendOptions, History, Items, load_ranker
        from phoenix_recsys.backend_registry import backends

        assert backends()["theirs"].source == "their-ranker 1.5", backends()["theirs"]
        options = BackendOptions(candidate_buckets=(4,))
        ranker = load_ranker({str(tmp_path / "ranker")!r}, "theirs", options)
        scores = ranker.score(1, History.empty(5), Items([1, 2], [3, 4]))
        assert scores.logits.shape == (2, 5)
        print(ranker.stats().backend)
        """,
    )
    assert (done.stdout, done.returncode) == ("theirs\n", 0), done.stderr


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import nothing_of_the_kind\n", "their_ranker = their_ranker.*nothing_of_the_kind"),
        (
            "from phoenix_recsys.backend_registry import hookimpl\n\n\n@hookimpl\ndef phoenix_backends(): ...\n",
            "one cannot be used: .*phoenix_backends",
        ),
    ],
)
def test_broken_distributions_are_named(tmp_path: Path, source: str, message: str) -> None:
    """An installed plugin that cannot be imported, or misspells the hook, is refused with the way out."""
    _install(tmp_path, {**INSTALLED, "their_ranker.py": source})
    done = _run(
        tmp_path,
        f"""
        import re
        from phoenix_recsys.backend_registry import BackendError, backends

        try:
            backends()
        except BackendError as error:
            found = str(error)
        assert re.search({message!r}, found, re.S), found
        assert "Repair or uninstall" in found
        print("refused", "jax" in sys.modules)
        """,
    )
    assert (done.stdout, done.returncode) == ("refused False\n", 0), done.stderr
