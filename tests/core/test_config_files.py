"""Options that name a file of settings: its content counts as what is set, wherever that matters."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from family_market import GAIN, PLUGIN, READ, REGISTRY, SPEC, WEIGHTS, Best, Gains, Stall
from replays import recorded

from candidate_pipeline import (
    SCORE,
    ConfigFile,
    Plugin,
    Registry,
    Reload,
    Replayer,
    SpecError,
    compose,
    live,
    load,
    load_document,
)
from candidate_pipeline.options import options_of
from candidate_pipeline.spec.document import Document, digest_of
from candidate_pipeline.spec.fingerprint import identity_of_object


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@attrs.frozen
class Page:
    """Settings in a table of their own, read when it is made."""

    path: ConfigFile
    text: str = attrs.field(init=False, eq=False)

    @text.default
    def _read(self) -> str:
        return _text(self.path)


@attrs.frozen
class ManyFiles(Gains):
    """Takes groups from files in a list, in a table and in a table of settings."""

    listed: tuple[ConfigFile, ...] = ()
    named: Mapping[str, ConfigFile] = attrs.field(factory=dict)
    page: Page | None = None
    found: tuple[str, ...] = attrs.field(init=False, eq=False)

    @found.default
    def _all(self) -> tuple[str, ...]:
        texts = [
            *map(_text, self.listed),
            *map(_text, self.named.values()),
            "" if self.page is None else self.page.text,
        ]
        return tuple(" ".join(texts).split())


MANY = SPEC.replace(
    'groups = ["buyer", "seller"]', 'listed = ["a.txt"]\nnamed = { x = "b.txt" }\npage = { path = "c.txt" }'
)
MANY = MANY.replace("market.gains", "many.gains").replace('show = ["market.gain.buyer"]', "")
MANY_REGISTRY = Registry([PLUGIN, Plugin("many", components={"scorer": {"gains": ManyFiles}})])
OVER_FILE = SPEC.replace('groups = ["buyer", "seller"]', 'settings = "groups.txt"')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A spec and the file of settings that it names."""
    (tmp_path / "market.toml").write_text(OVER_FILE)
    (tmp_path / "groups.txt").write_text("buyer seller")
    READ.clear()
    return tmp_path


def hash_of(folder: Path, name: str = "market.toml") -> str:
    """The config hash of the pipeline."""
    return load(folder / name, registry=REGISTRY)["market"].plan.config_hash


def test_the_option_is_a_path_from_the_spec(folder: Path) -> None:
    """The option takes a path, relative to the file that names it, and the component reads it when it is made."""
    option = options_of(Gains)["settings"]
    assert (option.config_file, option.data_dir, option.type_name) == (True, False, "path")
    app = load(folder / "market.toml", registry=REGISTRY)
    assert set(READ) == {folder / "groups.txt"}
    (node,) = (node for node in app["market"].plan.nodes if node.kind == "scorer")
    assert node.component.found == ("buyer", "seller")


def test_a_file_that_cannot_be_read_is_a_mistake_of_the_spec(folder: Path) -> None:
    """What the component says of its file is told as a problem, at the component's place."""
    (folder / "groups.txt").unlink()
    with pytest.raises(SpecError, match=r"market\.toml:\d+:\d+: E204 .*gains \(market\.gains\) refused its options"):
        load(folder / "market.toml", registry=REGISTRY)
    (folder / "groups.txt").write_text("Buyer")
    with pytest.raises(SpecError, match="'buyer' is one"):
        load(folder / "market.toml", registry=REGISTRY)


def test_the_content_decides_the_hash(folder: Path) -> None:
    """The config hash follows what the file holds, not where it lies."""
    first = hash_of(folder)
    (folder / "elsewhere.txt").write_text("buyer seller")
    (folder / "moved.toml").write_text(OVER_FILE.replace("groups.txt", "elsewhere.txt"))
    assert hash_of(folder, "moved.toml") == first
    (folder / "groups.txt").write_text("buyer seller maker")
    assert hash_of(folder) != first
    (folder / "groups.txt").write_text("buyer seller")
    assert hash_of(folder) == first


def test_the_content_decides_for_components_made_by_hand(folder: Path) -> None:
    """So does the fingerprint of a component without a spec."""
    path = folder / "groups.txt"
    first = identity_of_object(Gains(settings=path)).fingerprint
    path.write_text("buyer maker")
    assert identity_of_object(Gains(settings=path)).fingerprint != first


def test_what_has_no_digest(tmp_path: Path) -> None:
    """A folder, what is not there or can be no name, and what is no plain file and may never end, has no content."""
    os.mkfifo(tmp_path / "pipe")
    assert digest_of(tmp_path / "pipe") is None
    assert digest_of(Path("/dev/zero")) is None
    assert digest_of(tmp_path) is None
    assert digest_of(tmp_path / "nothing") is None
    assert digest_of(Path("a\0b")) is None


def test_a_live_application_follows_the_file(folder: Path) -> None:
    """A change of the file alone counts as one of the config; a broken file leaves what serves alone."""

    async def main() -> None:
        heard: list[Reload] = []
        async with live(folder / "market.toml", registry=REGISTRY, poll=None) as app:

            async def looked() -> tuple[int, set[str]]:
                for _ in range(2):
                    found = await app.check()
                    heard.extend([found] if found is not None else [])
                outcome = await app["market"].run()
                return app.generation, set(GAIN.members(outcome.selected.columns))

            assert await looked() == (0, {"buyer", "seller"})
            (folder / "groups.txt").write_text("buyer seller maker")
            assert await looked() == (1, {"buyer", "seller", "maker"})
            (folder / "groups.txt").write_text("Buyer")
            assert await looked() == (1, {"buyer", "seller", "maker"})
            assert "refused its options" in str(app.last_error)
            (folder / "groups.txt").unlink()
            assert await looked() == (1, {"buyer", "seller", "maker"})
            (folder / "groups.txt").write_text("buyer")
            assert await looked() == (2, {"buyer"})
            assert app.last_error is None
        assert [reload.error is None for reload in heard] == [True, False, False, True]

    asyncio.run(main())


def test_a_reload_without_a_change_keeps_the_component(folder: Path) -> None:
    """The same content is the same component; it is not read again."""

    async def main() -> None:
        async with live(folder / "market.toml", registry=REGISTRY, poll=None) as app:
            before = app["market"].plan
            READ.clear()
            (folder / "groups.txt").write_text("buyer seller")
            reload = await app.reload()
            assert not reload.changed
            assert app["market"].plan is before
            assert not READ

    asyncio.run(main())


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_files_inside_other_options_count_as_well(tmp_path: Path, name: str) -> None:
    """A file in a list, in a table or in a table of settings decides the hash, is watched, and makes things anew."""
    for each in "abc":
        (tmp_path / f"{each}.txt").write_text(f"group_{each}")
    (tmp_path / "market.toml").write_text(MANY)

    async def main() -> None:
        async with live(tmp_path / "market.toml", registry=MANY_REGISTRY, poll=None) as app:
            before = app["market"].plan
            assert not (await app.reload()).changed
            (tmp_path / f"{name}.txt").write_text("buyer")
            for _ in range(2):
                await app.check()
            assert app.generation == 1
            assert app["market"].plan.config_hash != before.config_hash
            wanted = ["buyer" if each == name else f"group_{each}" for each in "abc"]
            assert list(GAIN.members((await app["market"].run()).selected.columns)) == wanted
            (tmp_path / f"{name}.txt").write_text(f"group_{name}")
            await app.reload()
            assert app["market"].plan.config_hash == before.config_hash

    asyncio.run(main())


def test_a_replay_does_not_reuse_scores_over_another_file(folder: Path) -> None:
    """A scorer whose file changed since the recording is another scorer: its recorded answer does not count."""
    path = folder / "groups.txt"

    def app() -> Any:
        gains = Gains(settings=path)
        return compose("market", sources=[Stall()], scorers=[gains], selector=Best(), inputs={"weights": WEIGHTS})

    async def main() -> None:
        async with app() as first:
            outcome, capture = await recorded(first, "market")
        path.write_text("buyer seller maker")
        async with app() as second:
            again = await Replayer(second, capture).run()
        assert outcome.selected[GAIN["buyer"]].tolist() == again.selected[GAIN["buyer"]].tolist()
        assert again.selected[SCORE].tolist() == [24.0, 18.0, 12.0, 6.0]

    asyncio.run(main())


def test_overrides_start_where_they_are_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path in an override starts from the working directory, as any path in one does."""
    (folder / "in").mkdir()
    (folder / "in" / "mine.txt").write_text("buyer maker")
    monkeypatch.chdir(folder / "in")
    app = load(folder / "market.toml", registry=REGISTRY, sets=["components.gains.settings=mine.txt"])
    assert GAIN["maker"] in app["market"].plan.nodes[1].writes
    text = SPEC.replace('groups = ["buyer", "seller"]', 'settings = "mine.txt"')
    app = load_document(Document(text, base=folder / "in"), registry=REGISTRY)
    assert GAIN["maker"] in app["market"].plan.nodes[1].writes
